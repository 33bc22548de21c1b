"""lm-evaluation-harness on our models, against its own `hf` model on the same folder: a task of a local file, no network."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_files import write_rows
from tiny_writers import tiny_model

from tfkit.errors import ModelError, UsageError
from tfkit.evaluation.lm_eval import TfkitLM
from tfkit.hub.model_reading import Loaded
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build
from tfkit.tokenizer import train_byte_bpe

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness' own, and those of what it imports
CONTEXT = 24
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "hat", "big", "red"]
TASK = """
task: animals
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{answers}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
num_fewshot: 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of random weights."""
    path = tmp_path_factory.mktemp("asked")
    tokenizer = train_byte_bpe([" ".join(WORDS)] * 3, 300, add_bos=True)
    model = tiny_model("gpt2", CONTEXT, vocab_size=tokenizer.size)
    Loaded(model=model, codec=tokenizer, config=model.config, family="gpt2", folder=path).save(path)
    return path


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[TfkitLM, HFLM]:
    return TfkitLM(str(folder), batch_size=3), HFLM(str(folder), device="cpu", batch_size=2, dtype="float32")


def sentence(draws: random.Random, most: int) -> str:
    return " ".join(draws.choice(WORDS) for _ in range(draws.randint(1, most)))


def ask(kind: Any, asked: list[tuple[Any, ...]], *models: Any) -> list[Any]:
    """Return the replies of each model."""
    return [getattr(model, kind)([Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in asked]) for model in models]


def test_loglikelihood_is_that_of_the_harness(both: tuple[TfkitLM, HFLM]) -> None:
    draws = random.Random(1)
    asked: list[tuple[Any, ...]] = [(sentence(draws, 30), " " + sentence(draws, 6)) for _ in range(12)]
    asked += [("", "the cat"), ("the cat ", "sat"), ("the cat\n\n", "sat on"), ("big red", " hat"), ("big red", " hat")]
    [[greedy]] = ask("generate_until", [("the cat", {"until": [], "max_gen_toks": 4})], both[0])
    ours, theirs = ask("loglikelihood", [*asked, ("the cat", greedy)], *both)
    assert [one[0] for one in ours] == pytest.approx([one[0] for one in theirs], abs=1e-4)
    assert [one[1] for one in ours] == [one[1] for one in theirs]


def test_rolling_likelihoods_are_those_of_the_harness(both: tuple[TfkitLM, HFLM]) -> None:
    draws = random.Random(2)
    texts: list[tuple[Any, ...]] = [(sentence(draws, most),) for most in (1, 5, 23, 60, 90)]
    ours, theirs = ask("loglikelihood_rolling", texts, *both)
    assert ours == pytest.approx(theirs, abs=2e-4)


def test_what_is_written_is_what_the_harness_writes(both: tuple[TfkitLM, HFLM]) -> None:
    draws = random.Random(3)
    asked: list[tuple[Any, ...]] = [
        (sentence(draws, 30), {"until": until, "max_gen_toks": most, "do_sample": False})
        for until, most in ((["e"], 12), ([" c", "\n"], 12), (["e"], 12), ([], 5))
    ]
    ours, theirs = ask("generate_until", asked, *both)
    assert ours == theirs
    assert any(ours)


def test_each_sample_of_a_prompt_is_drawn_anew_whatever_the_batches(folder: Path) -> None:
    """As self-consistency asks: the harness repeats the request."""
    asked = [("the cat", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 6})] * 9
    one, other, another = ask("generate_until", asked, *(TfkitLM(str(folder), batch_size=size) for size in (1, 4, 9)))
    assert len({*one}) == 9
    assert one == other == another


@pytest.mark.thorough
def test_a_task_of_a_local_file_has_the_same_result(both: tuple[TfkitLM, HFLM], tmp_path: Path) -> None:
    draws = random.Random(4)
    drawn = ((sentence(draws, 9), [sentence(draws, 5) for _ in range(3)], draws.randrange(3)) for _ in range(20))
    write_rows(tmp_path / "rows.jsonl", (dict(zip(("question", "answers", "right"), one, strict=True)) for one in drawn))
    (tmp_path / "animals.yaml").write_text(TASK.replace("ROWS", json.dumps(str(tmp_path / "rows.jsonl"))), encoding="utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = [lm_eval.simple_evaluate(model, tasks=["animals"], task_manager=tasks, bootstrap_iters=0, log_samples=True) for model in both]
    scores = [{name: value for name, value in one["results"]["animals"].items() if name.startswith("acc")} for one in found]
    assert scores[0] == scores[1]
    assert 0 < scores[0]["acc,none"] < 1
    ours, theirs = ([float(reply[0][0]) for sample in one["samples"]["animals"] for reply in sample["resps"]] for one in found)
    assert len(ours) == 60
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_the_harness_knows_ours_beside_its_own() -> None:
    """It registers its own where it finds none, and ours is one."""
    code = """
import tfkit.evaluation.lm_eval as ours
from lm_eval.api.registry import get_model
print(get_model("dummy").__name__, get_model("tfkit") is ours.TfkitLM)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "DummyLM True\n", done.stderr


def test_what_cannot_be_done_is_said(both: tuple[TfkitLM, HFLM], tmp_path: Path) -> None:
    for settings, said in (
        ({"typical_p": 0.5}, "typical_p: tfkit knows until"),
        ({"until": ["a"]}, f"max_gen_toks is 256, but the model's context is {CONTEXT} tokens"),
    ):
        with pytest.raises(UsageError, match=said):
            ask("generate_until", [("the", settings)], both[0])
    values = both[0].loaded.config.model_dump() | {"head": {"kind": "classes", "count": 2, "pool": "last"}}
    config = ModelConfig.model_validate(values)
    about = {"codec": both[0].codec, "config": config, "family": "gpt2", "folder": tmp_path, "labels": ("a", "b")}
    Loaded(model=build(config, 1), **about).save(tmp_path)
    with pytest.raises(ModelError, match="the harness needs a language model"):
        TfkitLM(str(tmp_path))

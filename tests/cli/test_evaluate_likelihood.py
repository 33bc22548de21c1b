"""tfkit evaluate by likelihood: minimal pairs and choices, of a model that has learned which words go together."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from answer_runs import Progressed
from tiny_files import read_rows, write_rows
from tiny_runs import Done, evaluate, pretrain, run_here

import tfkit
from tfkit.hub import load

pytestmark = pytest.mark.usefixtures("in_place")

SUBJECTS = {"cat": "sits", "dog": "sits", "cats": "sit", "dogs": "sit"}
PAIRS = [
    {"sentence_good": f"the {noun} {verb} here", "sentence_bad": f"the {noun} {other} here", "UID": verb}
    for noun, verb in SUBJECTS.items()
    for other in {*SUBJECTS.values()} - {verb}
]
QUESTIONS = [{"context": f"the {noun}", "choices": ["sit", "sits"], "label": verb} for noun, verb in SUBJECTS.items()]
PAIRED = "objective={kind: minimal_pairs}"


@pytest.fixture(scope="module")
def place(base: Path, starts: Path) -> Path:
    """A run that has learned the pattern, one that has not, and an encoder."""
    for start, name in {"gpt": "random", "bert": "encoder"}.items():
        shutil.copytree(starts / start, base / name)
    draws = np.random.default_rng(3)
    texts = ({"text": f"the {noun} {SUBJECTS[noun]} here"} for noun in draws.choice(list(SUBJECTS), 300))
    write_rows(base / "texts.jsonl", texts)
    write_rows(base / "pairs.jsonl", PAIRS)
    write_rows(base / "questions.jsonl", QUESTIONS)
    with contextlib.chdir(base):
        learns = ["data={train: [{path: texts.jsonl}]}", "training.steps=60", "optimizer.lr=1e-2", "evaluation={every: null}"]
        chosen = ["training.steps=3", "data.validation=0.3", "evaluation.metric=perplexity"]
        for name, words in {"learned": learns, "chosen": chosen}.items():
            pretrain(base / name, base / "tiny.yaml", *words).exits(0)
    return base


def test_a_model_that_learned_the_pattern_prefers_the_good_sentence(tmp_path: Path) -> None:
    lines, start = tmp_path / "said.jsonl", ["--from", "learned", PAIRED, "--data", "pairs.jsonl", "--json"]
    found = evaluate(tmp_path, *start, "--predictions", lines, "--fail-if", "accuracy.sits < 1").exits(0).document
    assert found["metrics"] == {"accuracy": 1.0, "accuracy.sits": 1.0, "accuracy.sit": 1.0}
    assert (found["examples"], found["data"][0]["name"]) == (4, "pairs.jsonl")
    assert found["intervals"]["accuracy"] == [1.0, 1.0]
    said = read_rows(lines)
    assert [one["place"] for one in said] == [f"pairs.jsonl:{n}" for n in (1, 2, 3, 4)]
    assert all(one["good"] > one["bad"] + 1 and one["right"] is True for one in said)
    turned = evaluate(tmp_path, *start, "data.validation.0.columns={good: sentence_bad, bad: sentence_good}")
    assert turned.document["metrics"]["accuracy"] == 0.0
    alone = shutil.copytree(load("learned").folder, tmp_path / "alone")  # a checkpoint from elsewhere needs no recipe
    done = evaluate(tmp_path, "--from", alone, *start[2:], "carbon.enabled=false").exits(0)
    assert done.document["metrics"] == found["metrics"]


def test_gates_hold_for_groups(tmp_path: Path) -> None:
    start = ["--from", "learned", PAIRED, "--data", "pairs.jsonl"]
    evaluate(tmp_path, *start, "--fail-if", "accuracy.sit > 0.9").exits(8)
    unknown = "no metric 'accuracy.flies' here; the metrics are accuracy, accuracy.sits"
    evaluate(tmp_path, *start, "--fail-if", "accuracy.flies > 0.9").exits(2, unknown)
    evaluate(tmp_path, *start, "--fail-if", "loss > 0.9").exits(2, "the metrics are accuracy")


def test_choices_with_and_without_examples(tmp_path: Path) -> None:
    def asked(settings: str, *words: str) -> Done:
        return evaluate(tmp_path, "--from", "learned", f"objective={{kind: few_shot{settings}}}", "--json", *words)

    questions, section = ["--data", "questions.jsonl"], "data={train: [{path: questions.jsonl}], validation: %s}"
    metrics = asked("", *questions).exits(0).document["metrics"]
    assert (metrics["accuracy"], metrics["chance"]) == (1.0, 0.5)
    assert 0 < asked(", shots: 1, separator: ' '", section % 0.5).exits(0).document["examples"] < 4
    asked(", shots: 4", section % "[{path: questions.jsonl}]").exits(3, "lower objective.shots")
    # texts.jsonl, which the run was trained on, has no questions.
    asked(", shots: 1", *questions).exits(3, "texts.jsonl", "the examples of objective.shots are rows of data.train: name such rows there")
    asked(", template: '{context}'", *questions).exits(2, "{answer} once, at its end")


def test_bad_rows_are_left_out_or_end_it(tmp_path: Path) -> None:
    bad = [{"context": "the cat", "choices": ["sits", "sit"], "label": "7"}]
    start = ["--from", "learned", "objective={kind: few_shot}", "--data"]
    some, all_bad = write_rows(tmp_path / "some.jsonl", [*bad, *QUESTIONS]), write_rows(tmp_path / "all.jsonl", bad)
    evaluate(tmp_path, *start, some).exits(3, "some.jsonl:1: the label '7' is none of the 2 answers")
    done = evaluate(tmp_path, *start, some, "data.on_bad_row=skip", "--json").exits(0, "1 bad row skipped: 1 label '7'")
    assert done.document["examples"] == 4
    evaluate(tmp_path, *start, all_bad, "data.on_bad_row=skip").exits(3, "all.jsonl: no row could be judged")


def test_several_sets_and_a_limit(tmp_path: Path) -> None:
    sets = "data.validation=[{path: pairs.jsonl, name: one}, {path: pairs.jsonl, name: two}]"
    found = evaluate(tmp_path, "--from", "random", PAIRED, sets, "evaluation.max_tokens=null", "--json").document
    assert found["metrics"]["one.accuracy"] == found["metrics"]["two.accuracy"] == found["metrics"]["accuracy"]
    assert found["examples"] == 8
    half = evaluate(tmp_path, "--from", "random", PAIRED, sets, f"evaluation.max_tokens={found['tokens'] // 2}", "--json").document
    assert (half["examples"], len(half["data"])) == (4, 1)


def test_it_trains_nothing_and_needs_a_language_model(tmp_path: Path) -> None:
    data = "data={train: [{path: pairs.jsonl}], validation: 0.5}"
    for command in (["pretrain", "tiny.yaml"], ["finetune", "tiny.yaml", "--from", "learned"]):
        words = [*command, PAIRED, data, *(["model={}", "tokenizer={}"] if command[0] == "finetune" else [])]
        said = "minimal_pairs evaluates a finished model: use it with `tfkit evaluate --from CKPT`"
        run_here([*words, "--run", tmp_path / "run"]).exits(2, said)
        assert not (tmp_path / "run").exists()
    for encoder, code in (("encoder", 2), (shutil.copytree(load("encoder").folder, tmp_path / "alone"), 4)):  # its recipe, or the model
        done = evaluate(tmp_path, "--from", encoder, PAIRED, "--data", "pairs.jsonl", "carbon.enabled=false")
        done.exits(code, "minimal_pairs evaluates decoders; this model has an encoder")


def test_the_settings_of_the_runs_own_objective_are_not_those_of_another(tmp_path: Path) -> None:
    """evaluation.metric chose among the run's checkpoints; minimal pairs have no perplexity."""
    done = evaluate(tmp_path, "--from", "chosen", PAIRED, "--data", "pairs.jsonl", "--json").exits(0)
    assert 0 <= done.document["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize(("limit", "total"), [(None, len(PAIRS)), (10**6, None)])
def test_the_progress_has_a_total_and_ends_there(limit: int | None, total: int | None) -> None:
    listener = Progressed()
    overrides = {"objective": {"kind": "minimal_pairs"}, "evaluation.max_tokens": limit, "carbon.enabled": False}
    tfkit.evaluate(None, overrides, start="learned", data="pairs.jsonl", threads=1, listener=listener)
    assert listener.bars["judging pairs.jsonl"] == (total, len(PAIRS))

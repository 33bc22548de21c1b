"""Every recipe under recipes/: it validates, says what it is, and takes two steps with tiny sizes and made rows put in."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_recipes import has_stages
from tiny_files import write_rows
from tiny_runs import run_here

from tfkit.recipe import bundled_recipes, model_config, open_recipe, read_chain, read_recipe
from tfkit.recipe.schema.sections import Recipe

ROOT = Path(__file__).parent.parent.parent / "recipes"
RECIPES = sorted(ROOT.rglob("*.yaml"))
COUNT = 35
# For each published model, which a test cannot download, a recipe that makes a tiny one of its kind, with what it needs beside.
LIKE = {
    "hub:sentence-transformers/all-MiniLM-L6-v2": ("bert-stdlib", []),
    "hub:HuggingFaceTB/SmolLM2-135M-Instruct": ("smollm2-stdlib", ["tokenizer.variant=smollm2", "model.context_length=256"]),
}
WORDS = ["the", "cat", "def", "return", "self", "a", "mat"]

CHAINS = [path for path in RECIPES if has_stages(path)]
EACH = pytest.mark.parametrize(
    "path", [path for path in RECIPES if path not in CHAINS], ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix()
)


def test_none_was_lost() -> None:
    """A recipe that is added or taken away changes this number, on purpose."""
    assert len(RECIPES) == COUNT
    assert [recipe.path.resolve() for recipe in bundled_recipes()] == RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert (lines[0][:2], len(lines[0]) > 20) == ("# ", True)
    assert all(len(line) <= 140 for line in lines)
    assert len(lines) <= (60 if path in CHAINS else 45), "a recipe states only what differs from the defaults"


@EACH
def test_it_is_valid_and_sets_no_place(path: Path) -> None:
    carbon = read_recipe(str(path)).recipe.carbon
    assert (carbon.country, carbon.intensity_g_per_kwh) == (None, None)


def tiny(recipe: Recipe, rows: Path) -> list[str]:
    """The overrides that make a recipe small: sizes, rows and length; everything else stays as it is."""
    source = {"path": str(rows)}
    changes = {} if recipe.model.start else tiny_model(recipe)
    changes |= {"training.steps": 2, "training.batch_size": 4, "training.micro_batch_size": 2, "training.compile": False}
    changes |= dict.fromkeys(("training.epochs", "training.tokens", "training.batch_ramp", "schedule.warmup_tokens"))
    changes |= {"schedule.warmup_steps": 1, "evaluation.max_tokens": 200, "generation.max_new_tokens": 4, "carbon.enabled": False}
    changes["data.train"] = [source]
    if recipe.data.sequence_length is not None:
        changes["data.sequence_length"] = 8
    if recipe.model.start is None and recipe.tokenizer.path is None:
        changes["tokenizer.vocab_size"] = 300
    if isinstance(recipe.data.validation, list):
        changes["data.validation"] = [source]
    elif recipe.data.validation is not None:
        changes["data.validation"] = 0.4  # of three rows
    if getattr(recipe.objective, "copy_layers", None) is not None:
        changes["objective.copy_layers"] = [1, 0]
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def tiny_model(recipe: Recipe) -> dict[str, Any]:
    """Return overrides that make a described model small; a model from a checkpoint has the size of that."""
    config = model_config(recipe.model, 100_000)
    stacks = [stack for stack in ("encoder", "decoder") if getattr(config, f"{stack}_layers")]
    changes = {f"{stack}_layers": 2 for stack in stacks} | {"dim": 16, "num_heads": 2, "hidden_dim": 32, "context_length": 16}
    changes |= dict.fromkeys(("num_kv_heads", "head_dim", *({"vocab_size"} & recipe.model.changes.keys())))
    return {f"model.{name}": value for name, value in changes.items()}


COLUMNS = {
    "classification": ("text", "label"),
    "ppo": ("prompt",),
    "tagging": ("tokens", "tags"),
    "text_to_text": ("source", "target"),
    "chat": ("question", "answer"),
    "grpo": ("prompt", "answer"),
    **dict.fromkeys(("dpo", "reward"), ("text", "chosen", "rejected")),
}


def write_data(folder: Path, objective: str) -> Path:
    """Made rows with what the objective reads; of text, three files."""
    lines = [[str(word) for word in line] for line in np.random.default_rng(1).choice(WORDS, (40, 5))]
    made = [
        {"text": " ".join(line), "label": WORDS[row % 3], "tokens": line, "tags": [f"B-{word}" for word in line]}
        | {"source": " ".join(line), "target": line[0], "question": line[0], "prompt": line[0], "answer": line[1]}
        | {"completion": " ".join(line), "chosen": line[0], "rejected": line[1] + "s"}
        for row, line in enumerate(lines)
    ]
    if objective in COLUMNS:
        return write_rows(folder / f"{objective}.jsonl", [{name: row[name] for name in COLUMNS[objective]} for row in made])
    (folder / "corpus").mkdir(exist_ok=True)
    for number in range(3):
        text = "\n".join(" ".join(line) for line in np.random.default_rng(number).choice(WORDS, (40, 10)))
        (folder / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder / "corpus"


def take_two_steps(path: Path, run: str, more: Sequence[str] = ()) -> Any:
    """Return the result of a recipe made tiny, in the current folder. The model that it begins with, or learns from, is made alike."""
    recipe = read_recipe(str(path)).recipe
    words = [*tiny(recipe, write_data(Path.cwd(), recipe.objective.kind)), *more]
    if teacher := getattr(recipe.objective, "teacher", None):
        make(teacher)
    if recipe.model.start:
        words += ["--from", make(recipe.model.start)]
    command = "finetune" if recipe.model.start else "pretrain"
    return run_here([command, path, "--run", run, "--json", "--threads", "1", *words]).exits(0).document


def make(model: str) -> str:
    """The folder of the run that a recipe names, or of one that replaces a published model, after two steps."""
    name, more = LIKE.get(model, (model.removeprefix("runs/"), []))
    (path,) = (other for other in RECIPES if other.stem == name)
    take_two_steps(path, f"runs/{name}", more)
    return f"runs/{name}"


@pytest.mark.sampled(9)
@EACH
def test_it_takes_two_steps(path: Path, in_tmp_path: None) -> None:
    recipe = read_recipe(str(path)).recipe
    document = take_two_steps(path, "run")
    assert document["steps"] == 2
    assert document["tokens"] == 2 * 4 * 16 if recipe.objective.kind == "causal_lm" else document["tokens"] > 2 * 4
    assert -10 < document["loss"] < 10 if recipe.objective.kind == "grpo" else 0 < document["loss"] < 10


STAGES = {
    "instructgpt-reviews": ["base", "sft", "gold", "reward", "ppo", "ptx"],
    "instructgpt-1.3b": ["base", "large", "sft", "reward", "ppo"],
    "speedrun-stdlib": ["short", "middle", "last"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_a_recipe_with_stages_takes_two_steps_of_each(path: Path, tmp_path: Path, in_tmp_path: None) -> None:
    """Each stage tiny; the rows of pairs are single sentences, good and bad."""
    chain = read_chain(open_recipe(str(path)))
    names = [stage.name for stage in chain.stages]
    assert names == STAGES[path.stem]
    assert not any(stage.recipe.carbon.country for stage in chain.stages)
    text, labelled, prompts = (write_data(tmp_path, kind) for kind in ("causal_lm", "classification", "ppo"))
    halves = [{"completion": f"{word} {label}", "label": label} for word in WORDS for label in ("negative", "positive")]
    pairs = write_rows(tmp_path / "pairs.jsonl", halves)
    rows = {"classification": labelled, "reward": pairs, "ai_feedback": prompts, "ppo": prompts}
    words = []
    for stage in chain.stages:
        kind = stage.recipe.objective.kind
        changes = tiny(stage.recipe, rows.get(kind, text))
        changes += {"ppo": ["objective.prompts=4"]}.get(kind, [])
        changes += ["objective.max_new_tokens=4"] if kind in ("ppo", "ai_feedback") else []
        if stage.recipe.data.pretraining is not None:
            changes.append(f"data.pretraining={json.dumps([{'path': str(text)}])}")
        words += [f"{stage.name}.{change}" for change in changes]
    if "gold" in names:
        words.append(f"gold.model.from={make('hub:sentence-transformers/all-MiniLM-L6-v2')}")
    document = run_here(["pretrain", path, "--run", "run", "--json", "--threads", "1", *words]).exits(0).document
    assert {name: stage["steps"] for name, stage in document["stages"].items()} == dict.fromkeys(names, 2)
    assert 0 <= document["evaluation"].get("gold", 0) <= 1
    assert np.isfinite(document["evaluation"]["kl"]) if chain.stages[-1].recipe.objective.kind == "ppo" else document["loss"] < 10
    assert document["seconds"] > 0


# -- recipes/README.md: a row for each recipe, with the numbers of its header, or a note that it was not run yet

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [a-z]+/", line)
]


def test_every_recipe_has_its_row_in_order() -> None:
    assert [row[0] for row in ROWS] == [path.relative_to(ROOT).with_suffix("").as_posix() for path in RECIPES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_run_in_the_table_is_the_one_of_the_header(row: list[str]) -> None:
    name, command, minutes, kwh, grams, metric, baseline = row
    folder, _, stem = name.partition("/")
    assert command == f"`tfkit {'finetune' if folder == 'finetune' else 'pretrain'} {stem}`"
    text = (ROOT / f"{name}.yaml").read_text(encoding="utf-8")
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    if minutes == "not yet":
        assert (kwh, grams, "Run on" in header) == ("", "", False)
    else:
        for said in (f"in {minutes},", f"{kwh} kWh, {grams} gCO2e", metric.split()[0]):
            assert said in header
        assert baseline

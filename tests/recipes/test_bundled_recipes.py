"""Every recipe under recipes/: it validates, says what it is, and takes two steps with tiny sizes and made rows put in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfkit.__main__ import main
from tfkit.recipe import bundled_recipes, dump_recipe, model_config, read_recipe

ROOT = Path(__file__).parent.parent.parent / "recipes"
RECIPES = sorted(ROOT.rglob("*.yaml"))
COUNT = 15

EACH = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())


def test_none_was_lost() -> None:
    """A recipe that is added or taken away changes this number, on purpose."""
    assert len(RECIPES) == COUNT
    assert [recipe.path.resolve() for recipe in bundled_recipes()] == RECIPES


@EACH
def test_it_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 20
    assert all(len(line) <= 140 for line in lines)
    assert len(lines) <= 45, "a recipe states only what differs from the defaults"


@EACH
def test_it_is_valid_sets_no_place_and_its_resolved_form_means_the_same(path: Path, tmp_path: Path) -> None:
    recipe = read_recipe(str(path)).recipe
    assert recipe.carbon.country is None
    assert recipe.carbon.intensity_g_per_kwh is None
    size = recipe.tokenizer.vocab_size if recipe.tokenizer.path is None else 1000
    config = model_config(recipe.model, size)
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump_recipe(recipe, config), encoding="utf-8")
    again = read_recipe(str(copy)).recipe
    assert again.model_copy(update={"model": recipe.model}) == recipe
    assert model_config(again.model, size) == config


def tiny(recipe: dict[str, Any], stacks: list[str], corpus: Path) -> list[str]:
    """The overrides that make a recipe small: sizes, rows and length; everything else stays as it is."""
    source = {"path": str(corpus)}
    changes: dict[str, Any] = {
        **{f"model.{stack}_layers": 2 for stack in stacks},
        "model.dim": 16,
        "model.num_heads": 2,
        "model.num_kv_heads": None,
        "model.head_dim": None,
        "model.hidden_dim": 32,
        "model.context_length": 16,
        "data.train": [source],
        "training.steps": 2,
        "training.epochs": None,
        "training.tokens": None,
        "training.batch_size": 4,
        "training.micro_batch_size": 2,
        "training.compile": False,
        "schedule.warmup_steps": 1,
        "evaluation.max_tokens": 200,
        "generation.max_new_tokens": 4,
        "carbon.enabled": False,
    }
    if recipe["tokenizer"].get("path") is None:
        changes["tokenizer.vocab_size"] = 300
    if isinstance(recipe["data"]["validation"], list):
        changes["data.validation"] = [source]
    elif recipe["data"]["validation"] is not None:
        changes["data.validation"] = 0.4  # of three rows
    if "vocab_size" in recipe["model"]:
        changes["model.vocab_size"] = None
    if recipe["objective"].get("copy_layers") is not None:
        changes["objective.copy_layers"] = [1, 0]
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def take_two_steps(path: Path, run: str, corpus: Path) -> None:
    """Of a recipe made tiny; where it learns from the run of another recipe, after two steps of that one."""
    recipe = read_recipe(str(path)).recipe
    if teacher := getattr(recipe.objective, "teacher", None):
        (taught_by,) = (other for other in RECIPES if f"runs/{other.stem}" == teacher)
        take_two_steps(taught_by, teacher, corpus)
    config = model_config(recipe.model, 100_000)
    stacks = [stack for stack in ("encoder", "decoder") if getattr(config, f"{stack}_layers")]
    overrides = tiny(recipe.model_dump(), stacks, corpus)
    assert main(["pretrain", str(path), "--run", run, "--json", "--threads", "1", *overrides]) == 0


@EACH
def test_it_takes_two_steps(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["the", "cat", "def", "return", "self", "a", "mat"]
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        text = "\n".join(" ".join(line) for line in np.random.default_rng(number).choice(words, (40, 10)))
        (tmp_path / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    pairs = [{"source": " ".join(words[row % 5 :]), "target": words[row % 3]} for row in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    recipe = read_recipe(str(path)).recipe
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        take_two_steps(path, "run", tmp_path / ("corpus" if recipe.objective.reads_text else "pairs.jsonl"))
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_num_threads(before[1])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["steps"] == 2
    assert document["tokens"] == 2 * 4 * 16 if recipe.objective.kind == "causal_lm" else document["tokens"] > 2 * 4
    assert 0 < document["loss"] < 10

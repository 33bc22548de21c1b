"""Twenty fixed walks, or as many as --walks says, with the invariants on some; and the cases that once failed.

pytest tests/walks --walk-seed 17        one walk, with the invariants
python -m walks 17 --invariants          the same in the folder tests, printed; --shrink makes it small
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
from tiny_runs import Before

import tfkit.recipe.reading.read
from tfkit.data.formats.suffixes import FORMAT_OF
from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.recipe.reading.read import read_document
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.schema.vocabularies import VOCABULARIES
from walks.invariants import judge_walk
from walks.recipes import FAMILIES, OPTIMIZERS, SCHEDULES, RecipeDrawer, is_valid
from walks.scenario import Command, Walk, read_case
from walks.shrinking import shrink, shrink_failure
from walks.workflow import draw_walk

PER_TEST = 2  # so that the workers of xdist share them
INVARIANTS_EVERY = 10
SHORT = 20  # this many walks or fewer: invariants are checked on these alone
FEW = (3, 11)
CASES = sorted(Path(__file__).with_name("cases").glob("*.yaml"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        seed, walks = metafunc.config.getoption("--walk-seed"), metafunc.config.getoption("--walks")
        seeds = [range(seed, seed + 1)] if seed is not None else [range(n, min(n + PER_TEST, walks)) for n in range(0, walks, PER_TEST)]
        metafunc.parametrize("seeds", seeds, ids=[f"{part[0]}-{part[-1]}" for part in seeds])


@pytest.mark.thorough
def test_walks(seeds: range, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    failed = []
    for seed in seeds:
        checked = len(seeds) == 1 or (seed in FEW if request.config.getoption("--walks") <= SHORT else seed % INVARIANTS_EVERY == 0)
        outcome = judge_walk(draw_walk(seed), tmp_path / str(seed), invariants=checked)
        failed += [f"walk {seed}: {failure.signature}\n{failure.detail}" for failure in outcome.failures]
    assert not failed, "\n\n".join([*failed, "python -m walks SEED --shrink (in the folder tests) makes one small"])


@pytest.mark.sampled(8)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_that_once_failed(path: Path, tmp_path: Path) -> None:
    case = read_case(path)
    outcome = judge_walk(Walk.from_document(case), tmp_path / "walk", invariants=case.get("invariants", False))
    assert not outcome.failures, outcome.failures
    assert [done and done.code for _, done in outcome.done] == case["codes"]


# -- a fault that is put into tfkit is found by a walk, and the walk shrinks to a few lines


def fault() -> None:
    """Every command that reads a recipe with this optimizer raises what is no error of tfkit's."""

    def check(recipe: Recipe, tree: object) -> None:
        if recipe.optimizer.clip_norm == 0.125:
            raise RuntimeError("put here")

    Before(tfkit.recipe.reading.read, "cross_problems", check)()


@pytest.mark.slow
def test_a_fault_shrinks_to_a_few_lines(tmp_path: Path) -> None:
    walk = draw_walk(0)
    walk.commands = walk.commands[:2]
    recipe = walk.recipes["first.yaml"]
    walk.recipes["first.yaml"] = {name: recipe[name] for name in ("model", "data", "objective", "training")}  # the others take as long
    walk.recipes["first.yaml"]["optimizer"] = recipe["optimizer"] | {"clip_norm": 0.125}
    failures = judge_walk(walk, tmp_path / "walk", before=fault).failures
    assert failures[0].signature == "check: tfkit: a bug: RuntimeError: put here in tfkit/recipe/reading/read.py:check_tree"
    small = shrink_failure(walk, failures[0], tmp_path, before=fault)
    assert small.commands == [Command(["check", "first.yaml"])]
    assert not small.files
    assert small.recipes["first.yaml"]["optimizer"] == {"kind": walk.recipes["first.yaml"]["optimizer"]["kind"], "clip_norm": 0.125}
    assert len(json.dumps(small.recipes)) < 300


def test_only_what_matters_stays() -> None:
    walk = Walk(
        {}, {"a.yaml": {"x": {"kind": "k", "y": 1, "z": [1, 2]}, "w": 3}}, [Command(["check", "a.yaml", "--json"]), Command(["env"])]
    )
    small = shrink(walk, lambda found: found.recipes.get("a.yaml", {}).get("x", {}).get("y") == 1)
    assert small == Walk({}, {"a.yaml": {"x": {"kind": "k", "y": 1}}}, [])


# -- what they draw: each kind of everything that a recipe may name, so that a new one is drawn without being listed


DRAWN = 250  # walks: more than `make test-all` takes, since to draw one costs little
OTHER_NAMES = {".ndjson", ".bio", ".iob", ".iob2"}  # of formats that have another suffix, too
NOT_DRAWN = {"hub": "a walk has no network", "stdlib": "its text takes seconds, and tests/recipes reads it"}


@pytest.fixture(scope="module")
def walks() -> list[Walk]:
    return [draw_walk(seed) for seed in range(DRAWN)]


def recipes(walks: list[Walk]) -> Iterator[dict[str, Any]]:
    """Yield all recipes, and each stage of those that have some."""
    for walk in walks:
        for recipe in walk.recipes.values():
            for stage in recipe.get("stages", {"": recipe}).values():
                yield {name: value for name, value in stage.items() if name != "from"}


def test_every_family_and_kind_is_drawn(walks: list[Walk]) -> None:
    assert {PRESETS[recipe["model"]["preset"]][0].name for recipe in recipes(walks) if "preset" in recipe["model"]} == set(FAMILIES)
    for name, kinds in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        assert {recipe.get(name, {}).get("kind") for recipe in recipes(walks)} == set(kinds)
    assert {recipe["tokenizer"].get("kind") for recipe in recipes(walks) if "tokenizer" in recipe} >= set(VOCABULARIES)


def test_recipes_with_stages_are_drawn_some_of_which_are_stopped(walks: list[Walk]) -> None:
    commands = [command for walk in walks for command in walk.commands if "chain.yaml" in command.words]
    assert {command.signal is None for command in commands} == {True, False}


def test_every_objective_is_drawn(walks: list[Walk]) -> None:
    words = " ".join(word for walk in walks for command in walk.commands for word in command.words)
    drawn = {recipe["objective"]["kind"] for recipe in recipes(walks)} | {kind for kind in SECTIONS if f'"kind": "{kind}"' in words}
    assert drawn == set(SECTIONS)


def test_every_format_is_drawn_packed_and_plain(walks: list[Walk]) -> None:
    suffixes = {suffix for walk in walks for name in walk.files for suffix in PurePath(name).suffixes}
    assert suffixes >= {*FORMAT_OF, ".txt", ".gz", ".zip"} - OTHER_NAMES
    assert any(name.endswith("/") for walk in walks for name in walk.files)


def test_every_section_and_source_is_drawn_or_listed(walks: list[Walk]) -> None:
    assert {name for recipe in recipes(walks) for name in recipe} == set(Recipe.model_fields) - {"trackers"}  # as training.tensorboard
    sources = {name for recipe in recipes(walks) for source in recipe["data"]["train"] for name in source} & {"path", "hub", "stdlib"}
    assert sources | set(NOT_DRAWN) == {"path", "hub", "stdlib"}


def test_a_seed_gives_one_walk() -> None:
    assert draw_walk(7) == draw_walk(7)
    assert draw_walk(7) != draw_walk(8)


def test_what_is_drawn_as_valid_is_valid() -> None:
    """The checks without a file are those of `tfkit check`."""
    for seed in range(30):
        recipe = RecipeDrawer(random.Random(seed), {}).pretraining()
        try:
            read_document(recipe, "recipe")
            found = True
        except UsageError:
            found = False
        assert found == is_valid(recipe), seed


def test_the_commands_are_known(walks: list[Walk]) -> None:
    drawn = {command.name for walk in walks for command in walk.commands}
    assert drawn == {"check", "inspect", "pretrain", "finetune", "evaluate", "embed", "generate", "average", "verify"}
    assert {command.signal for walk in walks for command in walk.commands} == {None, "SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"}

"""The fixed walks draw each kind of everything that a recipe may name, so that a new one is drawn without being listed."""

import random
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import pytest

from tfkit.data.formats.suffixes import FORMAT_OF
from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.recipe.reading.read import read_document
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.schema.vocabularies import VOCABULARIES
from walks.recipes import FAMILIES, OPTIMIZERS, SCHEDULES, RecipeDrawer, is_valid
from walks.scenario import Walk
from walks.workflow import draw_walk

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

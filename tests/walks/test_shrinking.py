"""A fault that is put into tfkit is found by a walk, and the walk shrinks to a few lines."""

import json
from pathlib import Path

import pytest
from tiny_runs import Before

import tfkit.recipe.reading.read
from tfkit.recipe.schema.sections import Recipe
from walks.invariants import judge_walk
from walks.scenario import Command, Walk
from walks.shrinking import shrink, shrink_failure
from walks.workflow import draw_walk


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

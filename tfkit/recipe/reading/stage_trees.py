"""The tree of each stage of a recipe with stages (a chain), and the overrides of each stage."""

import re
from collections.abc import Iterable
from typing import Any

from tfkit.recipe.reading.overrides import Overrides
from tfkit.recipe.reading.problems import Problem
from tfkit.recipe.reading.tree import OVERRIDES, STAGES, Mapping, Scalar
from tfkit.recipe.schema.sections import Recipe

START = "from"  # a key of a stage, short for model: {from: ...}
STAGE_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"  # a stage's name is also the name of a folder, and the beginning of dotted names
# Names that no stage may have: those of a recipe's keys, and those of files and folders in a run folder.
_RESERVED = {*Recipe.model_fields, STAGES, START, "checkpoints", "tensorboard", "replay", "lock"}


def stage_trees(tree: Mapping) -> tuple[dict[str, Mapping], list[Problem]]:
    """Return the tree of each stage, in order, and the problems, such as sections beside `stages`, and stages with invalid names."""
    problems = [
        Problem(place, (name,), f"a recipe with stages has no other sections: move {name} into the stages that need it")
        for name, place in tree.keys.items()
        if name != STAGES
    ]
    place, stages = tree.keys[STAGES], tree.values[STAGES]
    if not isinstance(stages, Mapping) or not stages.values:
        return {}, [*problems, Problem(place, (STAGES,), "needs the name of each stage, and below the name a recipe")]
    found: dict[str, Mapping] = {}
    for name, stage in stages.values.items():
        place = stages.keys[name]
        if (wrong := _name_problem(name, found)) is not None:
            problems.append(Problem(place, (STAGES, name), wrong))
        elif not isinstance(stage, Mapping):
            problems.append(Problem(place, (STAGES, name), "a stage is a recipe, made of sections such as model, data and training"))
        else:
            problems += _move_start(name, stage)
            found[name] = stage
    return found, problems


def stage_overrides(overrides: Overrides, names: Iterable[str]) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Return the overrides of each stage, without the stage's name, and a problem for each override that belongs to no stage."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    problems = []
    for key, value in overrides.items():
        name, dot, field = (part.strip() for part in key.partition("."))
        if name in found and dot and field:
            field = "model.from" if field == START else field
            found[name].pop(field, None)  # of two overrides of a field, only the later one counts, in its place in the order
            found[name][field] = value
        else:
            message = f"this recipe has stages: start with one of {', '.join(found)}, and name a field of it"
            problems.append(Problem(OVERRIDES, tuple(key.split(".")), message))
    return found, problems


def drop_pin(stage: Mapping, overrides: Overrides) -> None:
    """Remove the hash of a stage's checkpoint if an override replaces the checkpoint but not the hash."""
    model = stage.values.get("model")
    if isinstance(model, Mapping) and "model.from" in overrides and "model.sha256" not in overrides:
        model.values.pop("sha256", None)
        model.keys.pop("sha256", None)


def _name_problem(name: str, before: dict[str, Mapping]) -> str | None:
    if not re.fullmatch(STAGE_NAME, name):
        return "the name of a stage is a word: letters, digits, dash and underscore, at most 64, a letter first"
    if name.lower() in _RESERVED:
        return "a stage cannot have this name, which a recipe or a run folder has for something else; choose another"
    if twin := next((other for other in before if other.lower() == name.lower()), None):
        return f"differs from the name {twin} only in capitals, so both are the same folder on some disks; choose another"
    return None


def _move_start(name: str, stage: Mapping) -> list[Problem]:
    """Move `from` of a stage into the stage's section model; return a problem if this section has a `from` already."""
    if START not in stage.values:
        return []
    start, place = stage.values.pop(START), stage.keys.pop(START)
    model = stage.values.get("model", Mapping(place))
    if isinstance(model, Scalar) and model.value is None:
        model = Mapping(place)
    if not isinstance(model, Mapping):
        return []  # the validation of the stage reports that `model` is no section
    if START in model.values:
        return [Problem(place, (name, START), f"given twice, also as model.from at {model.keys[START]}; remove one")]
    model.set(START, start, place)
    if stage.values.get("model") is not model:
        stage.set("model", model, place)
    return []

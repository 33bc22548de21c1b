"""The model section: a preset with changes, or a full description, made into a ModelConfig."""

from collections.abc import Mapping as MappingType
from typing import Any

from pydantic import ValidationError

from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.model.config import ModelConfig
from tfkit.recipe.reading.fields import sections_with
from tfkit.recipe.reading.problems import Problem, RecipeError
from tfkit.recipe.reading.tree import Mapping, Node, Place, place_of
from tfkit.recipe.reading.validate import one_of, problems_in, unknown
from tfkit.recipe.schema.sections import START_FIELDS, ModelSection, Recipe

# Null, they follow from dim and num_heads.
_DERIVED = ("hidden_dim", "num_kv_heads", "head_dim")


def model_config(section: ModelSection, vocab_size: int, head: dict[str, Any] | None = None) -> ModelConfig:
    """The model that a section describes; `vocab_size`, the tokenizer's size, unless the section states its own; `head`, if it is given,
    in place of the preset's.

    UsageError: not a valid description, or a stated vocab_size below the tokenizer's.
    """
    changes = section.changes | ({} if head is None else {"head": head})
    written = ({} if section.preset is None else {"preset": section.preset}) | changes
    if problems := model_problems(written, vocab_size, Mapping(Place("recipe"))):
        raise RecipeError(problems)
    config = ModelConfig.model_validate(_values(section.preset, changes, vocab_size), strict=True)
    if config.vocab_size < vocab_size:
        raise UsageError(
            f"model.vocab_size is {config.vocab_size}, but the tokenizer has {vocab_size} entries; leave vocab_size out, or raise it"
        )
    return config


def model_problems(written: dict[str, Any], vocab_size: int, tree: Node) -> list[Problem]:
    """What is wrong with a model section as written; `tree` is the whole recipe, for the positions."""
    if "from" in written or "sha256" in written:
        return _start_problems(written, tree)
    preset = written.get("preset")
    changes = {name: value for name, value in written.items() if name != "preset"}
    if preset is not None and not isinstance(preset, str):
        return []  # the schema of the recipe says so
    if preset is not None and preset not in PRESETS:
        place = place_of(tree, ("model", "preset"), key=False)
        return [Problem(place, ("model", "preset"), one_of(preset, PRESETS)), *_unknown_fields(changes, tree)]
    if preset is None and not changes:
        message = f"needs a preset ({', '.join(PRESETS)}) or a full description"
        return [Problem(place_of(tree, ("model",), key=True), ("model",), message)]
    values = _values(preset, changes, vocab_size)
    problems, stopped = _validate(values, tree)
    if stopped:  # dim and num_heads do not fit each other; what else?
        problems += _validate(values | {"head_dim": 2}, tree)[0]
    return problems


def _start_problems(written: dict[str, Any], tree: Node) -> list[Problem]:
    """Of a model that starts from a checkpoint only names can be judged: what it is stands in its own files."""
    found = []
    for name in START_FIELDS:
        if name in written and not (isinstance(written[name], str) and written[name]):
            wanted = "the path of a checkpoint" if name == "from" else "the hash that a resolved recipe has"
            found.append(Problem(place_of(tree, ("model", name), key=False), ("model", name), f"must be {wanted}"))
    if "from" not in written:
        place = place_of(tree, ("model", "sha256"), key=True)
        found.append(Problem(place, ("model", "sha256"), "belongs to from: the checkpoint is missing"))
    if written.get("preset") is not None:
        message = "from and preset exclude each other: a checkpoint has its own sizes; remove one of them"
        found.append(Problem(place_of(tree, ("model", "preset"), key=True), ("model", "preset"), message))
    changes = {name: value for name, value in written.items() if name not in (*START_FIELDS, "preset")}
    return found + _unknown_fields(changes, tree)


def merge(base: MappingType[str, Any], changes: MappingType[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, field by field through the sections; a section of another kind replaces the one that was there."""
    merged = dict(base)
    for name, value in changes.items():
        there = merged.get(name)
        if isinstance(there, dict) and isinstance(value, dict) and value.get("kind", there.get("kind")) == there.get("kind"):
            merged[name] = merge(there, value)
        else:
            merged[name] = value
    return merged


def _values(preset: str | None, changes: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    base = PRESETS[preset][1] if preset is not None else {}
    values = merge(base, changes)
    _follow_dim(values, base, changes)
    if changes.get("vocab_size") is None:
        values["vocab_size"] = vocab_size
    return values


def _follow_dim(values: dict[str, Any], base: MappingType[str, Any], changes: MappingType[str, Any]) -> None:
    """A preset's output scale that is its dim^-0.5 (T5 1.0) becomes that of another dim, unless the recipe states one."""
    head, stated, dim = base.get("head", {}), changes.get("head", {}), values.get("dim")
    follows = head.get("scale") is not None and head["scale"] == base["dim"] ** -0.5
    if not follows or not isinstance(stated, dict) or "scale" in stated or stated.get("kind", head["kind"]) != head["kind"]:
        return
    if type(dim) is int and dim > 0:  # else it will be refused
        values["head"] = values["head"] | {"scale": dim**-0.5}


def _validate(values: dict[str, Any], tree: Node) -> tuple[list[Problem], bool]:
    """The problems, and whether the widths could not be filled, so that nothing else was looked at."""
    try:
        ModelConfig.model_validate(values, strict=True)
    except ValidationError as error:
        problems = problems_in(error, ModelConfig, values, tree, ("model",))
        stopped = any(not detail["loc"] for detail in error.errors())
        given = {name for name in _DERIVED if values.get(name) is not None}
        return [problem for problem in problems if problem.path[-1] not in _DERIVED or problem.path[-1] in given], stopped
    return [], False


def _unknown_fields(changes: dict[str, Any], tree: Node) -> list[Problem]:
    """Without a preset's values the rest cannot be judged, but a name can."""
    known = {"preset", "from", *ModelConfig.model_fields}
    return [
        Problem(place_of(tree, ("model", name), key=True), ("model", name), unknown(name, known, sections_with(Recipe, name)))
        for name in changes
        if name not in known
    ]

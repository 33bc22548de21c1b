"""The ModelConfig that a recipe's model section describes, by a preset with changes or in full, and the head that its objective needs."""

from collections.abc import Mapping as MappingType
from typing import Any

from pydantic import ValidationError

from tfkit.errors import UsageError
from tfkit.families import PRESETS
from tfkit.families.hub_models import preset_of, unknown_preset
from tfkit.families.rules import Family
from tfkit.model.config import ClassesHeadConfig, ModelConfig, TagsHeadConfig
from tfkit.recipe.reading.problems import Problem, RecipeError, problem_at
from tfkit.recipe.reading.tree import Mapping, Node, Place
from tfkit.recipe.reading.validate import problems_in, sections_with, unknown
from tfkit.recipe.schema.objective_facts import OWN_HEADS, ObjectiveSection
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.recipe.schema.sections import START_FIELDS, ModelSection, Recipe

# Fields that are computed from dim and num_heads if they are null.
_DERIVED = ("hidden_dim", "num_kv_heads", "head_dim")


def model_config(section: ModelSection, vocab_size: int, head: dict[str, Any] | None = None) -> ModelConfig:
    """Return the config of a section. `vocab_size`: the tokenizer's, used if the section has none; `head`: replaces the section's head.

    Raises UsageError if the section is invalid, or if its vocab_size is below the tokenizer's.
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
    """Return the problems of a model section as it is written; `tree`: the whole recipe, with the positions of its fields."""
    if "from" in written or "sha256" in written:
        return _start_problems(written, tree)
    preset = written.get("preset")
    changes = {name: value for name, value in written.items() if name != "preset"}
    if preset is not None and not isinstance(preset, str):
        return []  # reported by the validation of the whole recipe
    preset = None if preset is None else preset_of(preset)
    if preset is not None and preset not in PRESETS:
        return [problem_at(tree, ("model", "preset"), unknown_preset(preset)), *_unknown_fields(changes, tree)]
    if preset is None and not changes:
        return [problem_at(tree, ("model",), "needs a preset, such as gpt2, or a full description", key=True)]
    values = _values(preset, changes, vocab_size)
    problems, stopped = _validate(values, tree)
    if stopped:  # dim and num_heads do not fit each other, which ended the validation: state head_dim, to find the other problems
        problems += _validate(values | {"head_dim": 64}, tree)[0]
    return problems


def _start_problems(written: dict[str, Any], tree: Node) -> list[Problem]:
    """Return the problems of a model section with a checkpoint. Values of config fields depend on the checkpoint and are not checked."""
    problems = []
    for name in START_FIELDS:
        if name in written and not (isinstance(written[name], str) and written[name]):
            wanted = "the path of a checkpoint" if name == "from" else "the SHA-256 of the checkpoint in model.from"
            problems.append(problem_at(tree, ("model", name), f"must be {wanted}"))
    if "from" not in written:
        problems.append(problem_at(tree, ("model", "sha256"), "is the hash of a checkpoint, but model.from is missing", key=True))
    if written.get("preset") is not None:
        message = "from and preset exclude each other: a checkpoint has its own sizes; remove one of them"
        problems.append(problem_at(tree, ("model", "preset"), message, key=True))
    changes = {name: value for name, value in written.items() if name not in (*START_FIELDS, "preset")}
    return problems + _unknown_fields(changes, tree)


def merge(base: MappingType[str, Any], changes: MappingType[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged in, section by section; a section of a different kind replaces the one in `base`."""
    merged = dict(base)
    for name, value in changes.items():
        current = merged.get(name)
        if isinstance(current, dict) and isinstance(value, dict) and value.get("kind", current.get("kind")) == current.get("kind"):
            merged[name] = merge(current, value)
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
    """If the preset's head has the scale dim^-0.5 (T5 1.0), adapt it to a changed dim, unless the changes state a scale or another head."""
    head, stated, dim = base.get("head", {}), changes.get("head", {}), values.get("dim")
    follows = head.get("scale") is not None and head["scale"] == base["dim"] ** -0.5
    if not follows or not isinstance(stated, dict) or "scale" in stated or stated.get("kind", head["kind"]) != head["kind"]:
        return
    if type(dim) is int and dim > 0:  # an invalid dim is reported by the validation
        values["head"] = values["head"] | {"scale": dim**-0.5}


def _validate(values: dict[str, Any], tree: Node) -> tuple[list[Problem], bool]:
    """Return the problems of a config, and whether its validation ended early, because dim is not a multiple of num_heads."""
    try:
        ModelConfig.model_validate(values, strict=True)
    except ValidationError as error:
        problems = problems_in(error, ModelConfig, values, tree, ("model",))
        stopped = any(not detail["loc"] for detail in error.errors())
        derived = {("model", name) for name in _DERIVED if values.get(name) is None}
        return [problem for problem in problems if problem.path not in derived], stopped
    return [], False


def _unknown_fields(changes: dict[str, Any], tree: Node) -> list[Problem]:
    """Return a problem for each unknown field: the only check that needs no values of the preset or checkpoint."""
    known = {"preset", "from", *ModelConfig.model_fields}
    return [problem_at(tree, ("model", name), unknown(name, known, sections_with(name)), key=True) for name in changes if name not in known]


def new_head(
    objective: ObjectiveSection, family: Family | None, config: ModelConfig, labels: int, *, same_labels: bool
) -> dict[str, Any] | None:
    """Return the config of the new head that a checkpoint's model needs for an objective; None if its present head fits.

    `labels`: the number of classes or tags; `same_labels`: whether the present head was trained for the same labels.
    """
    objective, head = objective.trained_for, config.head
    kind = objective.head
    if isinstance(objective, MaskedLMSection) and head.kind == "masked_lm":
        wanted = {**head.model_dump(), "next_sentence": objective.next_sentence}
        return None if wanted == head.model_dump() else wanted
    if kind == "choices":
        if head.kind == "lm":
            return None if head.choices else {**head.model_dump(), "choices": True}
        return {"kind": "lm", "tied": True, "choices": True}
    if head.kind == kind and (same_labels or not isinstance(head, ClassesHeadConfig | TagsHeadConfig)):
        return None
    if head.kind == kind:
        return {**head.model_dump(), "count": labels}
    values = _family_head(family, kind, labels, decoder=bool(config.decoder_layers))
    if kind in ("lm", "masked_lm"):
        values |= {"tied": True}
    if isinstance(objective, MaskedLMSection):
        values |= {"next_sentence": objective.next_sentence}
    return values


def task_head(recipe: Recipe, labels: int) -> dict[str, Any] | None:
    """Return the config of the head for a recipe's objective; None for objectives with the head `lm`, or if the recipe describes a head.

    `labels`: the number of classes or tags; 1 for regression.
    """
    objective, preset = recipe.objective.trained_for, recipe.model.preset
    kind = objective.head
    if "head" in recipe.model.changes or kind not in (*OWN_HEADS, "choices", "masked_lm"):
        return None
    family, values = PRESETS.get(preset or "", (None, {}))
    if isinstance(objective, MaskedLMSection):  # the preset's head or a new one, with a next-sentence classifier if the objective needs it
        return {**values.get("head", {"kind": "masked_lm", "tied": True}), "next_sentence": objective.next_sentence}
    if kind == "choices":  # the language model's head, and a score of the whole sequence beside it
        return {**values.get("head", {"kind": "lm", "tied": True}), "choices": True}
    return _family_head(family, kind, labels, decoder=bool((values | recipe.model.changes).get("decoder_layers")))


def _family_head(family: Family | None, kind: str, labels: int, *, decoder: bool) -> dict[str, Any]:
    """Return the config of a new head of this kind, as the family defines it. If the family defines none, a head of classes reads the last
    token of a decoder, or the first token of an encoder.
    """
    known = [values for values in (family.architectures.values() if family else ()) if values["kind"] == kind]
    values: dict[str, Any] = {**known[0]} if known else {"kind": kind}
    if kind in ("classes", "tags"):
        values["count"] = labels
    return {"pool": "last" if decoder else "first", "bias": True} | values if kind == "classes" else values

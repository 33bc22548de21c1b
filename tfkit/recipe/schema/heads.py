"""The head that an objective trains, where a recipe names none: what its family puts on a model for such a task. Torch-free."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.families.rules import Family
from tfkit.model.config import ClassesHeadConfig, ModelConfig, TagsHeadConfig
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.recipe.schema.sections import Recipe


def new_head(
    objective: ObjectiveSection, family: Family | None, config: ModelConfig, labels: int, *, same_labels: bool
) -> dict[str, Any] | None:
    """The values of the head that a finished model gets for an objective; None where its own is of that kind, and for the same labels."""
    objective, own = objective.trained_for, config.head
    kind = objective.head
    if isinstance(objective, MaskedLMSection) and own.kind == "masked_lm":
        wanted = {**own.model_dump(), "next_sentence": objective.next_sentence}
        return None if wanted == own.model_dump() else wanted
    if kind == "choices":
        if own.kind == "lm":
            return None if own.choices else {**own.model_dump(), "choices": True}
        return {"kind": "lm", "tied": True, "choices": True}
    if own.kind == kind and (same_labels or not isinstance(own, ClassesHeadConfig | TagsHeadConfig)):
        return None
    if own.kind == kind:
        return {**own.model_dump(), "count": labels}
    values = _of_family(family, kind, labels, decoder=bool(config.decoder_layers))
    if kind in ("lm", "masked_lm"):
        values |= {"tied": True}
    if isinstance(objective, MaskedLMSection):
        values |= {"next_sentence": objective.next_sentence}
    return values


def task_head(recipe: Recipe, labels: int) -> dict[str, Any] | None:
    """The values of the head for the objective; None where the model's own fits, or the recipe states one.

    `labels` is how many classes or tags there are; 1 for a number.
    """
    objective, preset = recipe.objective.trained_for, recipe.model.preset
    kind = objective.head
    if "head" in recipe.model.changes or kind not in ("classes", "tags", "choices", "masked_lm"):
        return None
    if isinstance(objective, MaskedLMSection):  # what tells of the next sentence is there where that is asked
        own = PRESETS[preset][1]["head"] if preset in PRESETS else {"kind": "masked_lm", "tied": True}
        return {**own, "next_sentence": objective.next_sentence}
    if kind == "choices":  # of a language model, whose own head it stands beside
        return {**(PRESETS[preset][1]["head"] if preset in PRESETS else {"kind": "lm", "tied": True}), "choices": True}
    family = PRESETS[preset][0] if preset in PRESETS else None
    return _of_family(family, kind, labels, decoder=bool(recipe.model.changes.get("decoder_layers")))


def _of_family(family: Family | None, kind: str, labels: int, *, decoder: bool) -> dict[str, Any]:
    """The head of a kind as the family puts it on a model; of classes that no family says more of, at the end of a decoder's text."""
    known = [values for values in (family.architectures.values() if family else ()) if values["kind"] == kind]
    values: dict[str, Any] = {**known[0]} if known else {"kind": kind}
    if kind in ("classes", "tags"):
        values["count"] = labels
    if kind == "classes" and not known:
        values |= {"pool": "last" if decoder else "first", "bias": True}
    return values

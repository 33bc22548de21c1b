"""The head for an objective if the recipe describes none: the head that the model's family has for such tasks."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.families.rules import Family
from tfkit.model.config import ClassesHeadConfig, ModelConfig, TagsHeadConfig
from tfkit.recipe.schema.objective_facts import OWN_HEADS, ObjectiveSection
from tfkit.recipe.schema.objective_sections import MaskedLMSection
from tfkit.recipe.schema.sections import Recipe


def new_head(
    objective: ObjectiveSection, family: Family | None, config: ModelConfig, labels: int, *, same_labels: bool
) -> dict[str, Any] | None:
    """Return the config of the new head that a finished model needs for an objective; None if its present head fits.

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
    """Return the config of the head for a recipe's objective; None if the preset's head fits, or if the recipe describes a head.

    `labels`: the number of classes or tags; 1 for regression.
    """
    objective, preset = recipe.objective.trained_for, recipe.model.preset
    kind = objective.head
    if "head" in recipe.model.changes or kind not in (*OWN_HEADS, "choices", "masked_lm"):
        return None
    family, values = PRESETS.get(preset or "", (None, {}))
    if isinstance(objective, MaskedLMSection):  # the preset's head, with a next-sentence classifier if the objective needs it
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

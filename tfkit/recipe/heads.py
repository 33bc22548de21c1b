"""The head that an objective trains, where a recipe names none: what its family puts on a model for such a task. Torch-free."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.recipe.objectives import MaskedLMSection, trained_for
from tfkit.recipe.schema import Recipe


def task_head(recipe: Recipe, labels: int) -> dict[str, Any] | None:
    """The values of the head for the objective; None where the model's own fits, or the recipe states one.

    `labels` is how many classes or tags there are; 1 for a number.
    """
    objective, preset = trained_for(recipe.objective), recipe.model.preset
    kind = objective.head
    if "head" in recipe.model.changes or kind not in ("classes", "tags", "choices", "masked_lm"):
        return None
    if isinstance(objective, MaskedLMSection):  # what tells of the next sentence is there where that is asked
        own = PRESETS[preset][1]["head"] if preset in PRESETS else {"kind": "masked_lm", "tied": True}
        return {**own, "next_sentence": objective.next_sentence}
    if kind == "choices":  # of a language model, whose own head it stands beside
        return {**(PRESETS[preset][1]["head"] if preset in PRESETS else {"kind": "lm", "tied": True}), "choices": True}
    family = PRESETS[preset][0] if preset in PRESETS else None
    known = [values for values in (family.architectures.values() if family else ()) if values["kind"] == kind]
    if known:
        return {**known[0], "count": labels}
    if kind == "tags":
        return {"kind": "tags", "count": labels}
    decoder = bool(recipe.model.changes.get("decoder_layers"))
    return {"kind": "classes", "count": labels, "pool": "last" if decoder else "first", "bias": True}

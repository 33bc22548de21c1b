"""The head that an objective trains, where a recipe names none: what its family puts on a model for such a task. Torch-free."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.recipe.schema import Recipe


def task_head(recipe: Recipe, labels: int) -> dict[str, Any] | None:
    """The values of the head for the objective; None where the model's own fits, or the recipe states one.

    `labels` is how many classes or tags there are; 1 for a number.
    """
    kind = recipe.objective.head
    if "head" in recipe.model.changes or kind not in ("classes", "tags"):
        return None
    preset = recipe.model.preset
    family = PRESETS[preset][0] if preset in PRESETS else None
    known = [values for values in (family.architectures.values() if family else ()) if values["kind"] == kind]
    if known:
        return {**known[0], "count": labels}
    if kind == "tags":
        return {"kind": "tags", "count": labels}
    decoder = bool(recipe.model.changes.get("decoder_layers"))
    return {"kind": "classes", "count": labels, "pool": "last" if decoder else "first", "bias": True}

"""Recipes that an earlier version wrote with all of its fields, as for every run: later fields get the values that it implied."""

from collections.abc import Collection

from tfkit.recipe.reading.tree import Mapping, Scalar
from tfkit.recipe.schema.sections import Recipe

_DATA_0_1 = {"train", "validation", "on_bad_row", "max_lost", "length_groups"}  # all fields of the section then


def add_later_fields(recipe: Mapping) -> None:
    """Add the fields of later versions to a recipe that has every field of its own version."""
    data = recipe.values.get("data")
    if isinstance(data, Mapping) and data.values.keys() == _DATA_0_1:
        data.set("split_by", Scalar(data.place, "row", "row"), data.place)


def split_overrides(begun: Recipe, written: Collection[str]) -> list[str]:
    """Return the overrides that make a recipe with these written fields split its rows as the run `begun`, unless it sets the split."""
    return [] if "data.split_by" in written else [f"data.split_by={begun.data.split_by}"]

"""Readers of the forms that have parts: a set of labels. The others are in forms.py."""

from collections.abc import Callable, Mapping
from typing import Any

from tfkit.data.columns import forms
from tfkit.data.columns.forms import Unfit, read_literal
from tfkit.recipe.schema.roles import Form

_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_label_set(value: Any) -> str | list[str] | dict[str, bool] | Unfit:
    """Read the labels of a row: a list; a text, which the objective splits; or a value for each name of a label (0 or 1), which several
    columns are, too. Null and an empty text are no label.
    """
    match value:
        case None:
            return []
        case list():
            labels: list[str] | Unfit = forms.READERS["labels"](value)
            if isinstance(labels, list) and len({*labels}) < len(labels) and {*labels} <= _FLAGS.keys():
                return Unfit("a list of zeros and ones, which names no labels", "a list of labels, or a column for each")
            return labels
        case Mapping():
            return _read_flags(value)
    return read_literal(value)


def _read_flags(value: Mapping[str, Any]) -> list[str] | dict[str, bool] | Unfit:
    """Read zeros and ones by their labels' names; of other values, each is a label itself, and blank ones are none."""
    found = {str(name): "" if one is None else read_literal(one) for name, one in value.items()}
    for name, one in found.items():
        if isinstance(one, Unfit):
            return Unfit(f"{one.found} for {name!r}", "0 or 1, or a label")
    kept = {name: str(one).strip() for name, one in found.items()}
    labels = [one for one in kept.values() if one]
    if not labels or not {*labels} <= _FLAGS.keys():
        return labels
    if len(labels) < len(kept):
        return Unfit(f"nothing for {next(name for name, one in kept.items() if not one)!r}", "0 or 1")
    return {name: _FLAGS[one] for name, one in kept.items()}


READERS: Mapping[Form, Callable[[Any], Any]] = {**forms.READERS, "label_set": read_label_set}

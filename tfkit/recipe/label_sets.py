"""Sets of labels in the first rows of data: lists, texts with a delimiter, columns of 0 and 1. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfkit.recipe.schema.multi_label_section import MultiLabelSection

_DELIMITERS = ("|", ";", ",")
_LONGEST = 40  # characters of a label
_TEXTS, _LABELS = (next(role.columns for role in MultiLabelSection.roles if role.name == name) for name in ("text", "labels"))


@dataclass(frozen=True)
class LabelSets:
    """How rows hold sets of labels: `count` different ones, with a `delimiter` if those of a row are one text.

    `columns`: those that a recipe has to name, by role, since their names are not recognised.
    """

    count: int
    delimiter: str | None = None
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)


def find_label_sets(values: Sequence[Any], columns: Mapping[str, str | list[str]], few: int) -> LabelSets | None:
    """Return how the rows hold sets, from the value of the role `labels` of each; None if a row has one label, or these are no labels.

    Labels repeat: each is in `few` rows or more, on average.
    """
    if values and all(isinstance(value, Mapping) for value in values):
        return LabelSets(len({name for value in values for name in value}), None, columns)
    if any(isinstance(value, Mapping) for value in values):
        return None
    if not any(isinstance(value, str) for value in values):
        lists = [[*map(str, value)] for value in values]
        return LabelSets(len({label for labels in lists for label in labels}), None, columns) if _repeat(lists, few) else None
    texts = [value if isinstance(value, str) else "|".join(value) for value in values]
    for delimiter in _DELIMITERS:
        lists = [[part.strip() for part in text.split(delimiter) if part.strip()] for text in texts]
        labels = {label for one in lists for label in one}
        fewer = len(labels) < len({*texts}) or (delimiter == "|" and not labels.isdisjoint(texts))
        if any(len(one) > 1 for one in lists) and fewer and _repeat(lists, few):
            return LabelSets(len(labels), delimiter, columns)
    return None


def _repeat(lists: Sequence[Sequence[str]], few: int) -> bool:
    labels = {label for one in lists for label in one}
    return len(labels) > 1 and len(labels) * few <= sum(map(len, lists)) and max(map(len, labels)) <= _LONGEST


def flag_columns(held: Mapping[str, Sequence[object]], texts: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the columns of 0 and 1 as those of labels, if there are several beside one text, and no labels; else nothing.

    `held`: the values of each column, row by row; `texts`: the columns with texts of some length.
    """
    flags = [name for name, values in held.items() if values and all(str(value) in ("0", "1") for value in values)]
    if {*_LABELS} & held.keys() or sum(any(str(value) == "1" for value in held[name]) for name in flags) < 2:
        return {}
    if known := [name for name in _TEXTS if name in held]:
        return {"labels": flags} if len(known) == 1 else {}
    return {"text": texts[0], "labels": flags} if len(texts) == 1 else {}

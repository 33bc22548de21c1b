"""Recognition of label sets in the first rows of data: lists, texts with a delimiter, columns of 0 and 1. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfkit.recipe.schema.multi_label_section import MultiLabelSection

_DELIMITERS = ("|", ";", ",")
_MAX_LABEL = 40  # characters
_TEXTS, _LABELS = (next(role.columns for role in MultiLabelSection.roles if role.name == name) for name in ("text", "labels"))


@dataclass(frozen=True)
class LabelSets:
    """The form of the label sets in rows: `count` distinct labels, with a `delimiter` if the labels of a row are one text."""

    count: int
    delimiter: str | None = None


def find_label_sets(values: Sequence[Any], few: int) -> LabelSets | None:
    """Return the form of the label sets, given the rows' values of the role `labels`; None if rows have one label each, or no labels.

    Values are labels only if each occurs in at least `few` rows on average.
    """
    if values and all(isinstance(value, Mapping) for value in values):
        return LabelSets(len({name for value in values for name in value}))
    if any(isinstance(value, Mapping) for value in values):
        return None
    if not any(isinstance(value, str) for value in values):
        lists = [[*map(str, value)] for value in values]
        return LabelSets(len({label for labels in lists for label in labels})) if _repeat(lists, few) else None
    texts = [value if isinstance(value, str) else "|".join(value) for value in values]
    for delimiter in _DELIMITERS:
        lists = [[part.strip() for part in text.split(delimiter) if part.strip()] for text in texts]
        labels = {label for row in lists for label in row}
        fewer = len(labels) < len({*texts}) or (delimiter == "|" and not labels.isdisjoint(texts))
        if any(len(row) > 1 for row in lists) and fewer and _repeat(lists, few):
            return LabelSets(len(labels), delimiter)
    return None


def _repeat(lists: Sequence[Sequence[str]], few: int) -> bool:
    labels = {label for row in lists for label in row}
    return len(labels) > 1 and len(labels) * few <= sum(map(len, lists)) and max(map(len, labels)) <= _MAX_LABEL


def flag_columns(held: Mapping[str, Sequence[object]], texts: Sequence[str]) -> dict[str, str | list[str]]:
    """Return the columns by role if several columns of 0 and 1 are the labels of one text; else empty.

    `held`: the values of each column, row by row; `texts`: the columns of longer texts.
    """
    flags = [name for name, values in held.items() if values and all(str(value) in ("0", "1") for value in values)]
    if {*_LABELS} & held.keys() or sum(any(str(value) == "1" for value in held[name]) for name in flags) < 2:
        return {}
    if known := [name for name in _TEXTS if name in held]:
        return {"labels": flags} if len(known) == 1 else {}
    return {"text": texts[0], "labels": flags} if len(texts) == 1 else {}

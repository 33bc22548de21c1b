"""The form of a column's values: text, labels, words, label sets; and the columns of text that a task would not read. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEW = 5  # minimum mean number of rows per class: a column with fewer holds names or numbers, not classes
_LONG, _SPACES = 60, 6  # minimum median numbers of characters and spaces in a column of longer texts
_CONTAINED = 20  # minimum characters of a text that another contains not just by chance
_DELIMITERS, _MAX_LABEL = ("|", ";", ","), 40  # of a set of labels, and characters of a label

Held = Mapping[str, Sequence[Any]]  # the values of each column, row by row; None where a row has none


def form_of(values: Sequence[object]) -> str:
    """Return what a column may hold: text, label, texts (a list of words or texts), messages; or other."""
    if values and all(isinstance(value, list) and value for value in values):
        parts = [part for value in values if isinstance(value, list) for part in value]
        if all(isinstance(part, Mapping) and {"role", "from"} & part.keys() for part in parts):
            return "messages"
        return "texts" if all(isinstance(part, str) for part in parts) else "other"
    if few_values(values):
        return "label"
    texts = [value for value in values if isinstance(value, str)]
    return "text" if 2 * sum(" " in text.strip() for text in texts) > len(values) else "other"


def few_values(values: Sequence[object]) -> bool:
    """Return whether a column may hold labels: short values, at least two distinct ones, that repeat often."""
    short = all(isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= _MAX_LABEL) for value in values)
    return short and 2 <= len({*map(str, values)}) <= len(values) / FEW


def long_texts(values: Sequence[object]) -> bool:
    """Return whether a column holds longer texts that hardly repeat, rather than names, addresses or explanations of a class."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if 2 * len(texts) <= len(values) or 2 * len({*texts}) <= len(texts):
        return False
    return sorted(map(len, texts))[len(texts) // 2] >= _LONG and sorted(text.count(" ") for text in texts)[len(texts) // 2] >= _SPACES


def unread_texts(held: Held, read: Held, beside: Sequence[object]) -> tuple[str, ...]:
    """Return the columns of longer texts that a task would not read, without those that repeat what is read: in a third of their rows, a
    text that is read contains the column's text, or the column's text contains the text `beside` which it would be read.

    `held`: the columns that are not read; `read`: the values that are.
    """
    return tuple(name for name, values in held.items() if long_texts(values) and not _repeats(values, beside, [*read.values()]))


def _repeats(values: Sequence[object], texts_beside: Sequence[object], read: Sequence[Sequence[object]]) -> bool:
    texts = repeated = 0
    for value, beside, *others in zip(values, texts_beside, *read, strict=True):
        if isinstance(value, str) and (text := value.strip()):
            texts += 1
            contains = isinstance(beside, str) and len(beside.strip()) >= _CONTAINED and beside.strip() in text
            repeated += contains or any(isinstance(other, str) and text in other for other in others)
    return 3 * repeated >= texts


@dataclass(frozen=True)
class LabelSets:
    """The form of the label sets in rows: `count` distinct labels, with a `delimiter` if the labels of a row are one text."""

    count: int
    delimiter: str | None = None


def find_label_sets(values: Sequence[Any]) -> LabelSets | None:
    """Return the form of the label sets, given the rows' values of the role `labels`; None if rows have one label each, or no labels.

    Values are labels only if each occurs in at least `FEW` rows on average.
    """
    if values and all(isinstance(value, Mapping) for value in values):
        return LabelSets(len({name for value in values for name in value}))
    if any(isinstance(value, Mapping) for value in values):
        return None
    if not any(isinstance(value, str) for value in values):
        lists = [[*map(str, value)] for value in values]
        return LabelSets(len({label for labels in lists for label in labels})) if _are_labels(lists) else None
    texts = [value if isinstance(value, str) else "|".join(value) for value in values]
    for delimiter in _DELIMITERS:
        lists = [[part.strip() for part in text.split(delimiter) if part.strip()] for text in texts]
        labels = {label for row in lists for label in row}
        fewer = len(labels) < len({*texts}) or (delimiter == "|" and not labels.isdisjoint(texts))
        if any(len(row) > 1 for row in lists) and fewer and _are_labels(lists):
            return LabelSets(len(labels), delimiter)
    return None


def _are_labels(lists: Sequence[Sequence[str]]) -> bool:
    labels = {label for row in lists for label in row}
    return len(labels) > 1 and len(labels) * FEW <= sum(map(len, lists)) and max(map(len, labels)) <= _MAX_LABEL

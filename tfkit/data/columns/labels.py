"""The classes, or tags, in the rows of a source."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfkit.data.columns.rows import Source
from tfkit.errors import DataError

_SOME_ROWS, _NEARLY_ALL = 20, 0.9  # among this many rows, so large a fraction of different labels: names or numbers, not classes
_NUMBER = re.compile(r"-?[0-9]{1,1000}")  # Python refuses far longer ones


def find_labels(sources: Sequence[Source], labels_in: Callable[[Any], Iterable[str]] = tuple) -> list[str]:
    """Return every label of the rows, sorted: numbers by value, words alphabetically. Raise DataError if there are fewer than two.

    `labels_in` gives the labels of a set of them, as the objective reads it.
    """
    found: set[str] = set()
    labelled = 0
    for source in sources:
        for row in source.rows():
            if "label" in row.values:
                labelled += 1
                found.add(str(row.values["label"]))  # a ClassName is more than its text, which is what is stored
            found.update(map(str, row.values.get("tags", ())))
            found.update(labels_in(row.values.get("labels", ())))
    if len(found) < 2:
        names = ", ".join(dict.fromkeys(source.name for source in sources))
        only = f"only the label {found.pop()!r}" if found else "no label"
        raise DataError(f"{names}: {only} in all rows, so there is nothing to classify; check the column of the labels")
    if labelled >= _SOME_ROWS and len(found) > _NEARLY_ALL * labelled:
        names = ", ".join(dict.fromkeys(source.name for source in sources))
        raise DataError(
            f"{names}: {len(found):,} different labels in {labelled:,} rows, so hardly any class has two; name the column of the classes "
            "with columns: {label: NAME}; for numbers set objective={kind: classification, regression: true}; if these are the classes, "
            "name them in objective.labels"
        )
    return sorted(found, key=_by_value)


def _by_value(label: str) -> tuple[bool, int, str]:
    return (False, int(label), label) if _NUMBER.fullmatch(label) else (True, 0, label)  # 1 and 01 have the same value

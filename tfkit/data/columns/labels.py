"""The set of classes or tags that occur in the rows of sources."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfkit.data.columns.rows import Source
from tfkit.errors import DataError

_MIN_ROWS, _MAX_DISTINCT = 20, 0.9  # if over 90 % of at least 20 rows have different labels, the labels are names or numbers, not classes
_NUMBER = re.compile(r"-?[0-9]{1,1000}")  # int() refuses more than 4300 digits


def find_labels(sources: Sequence[Source], labels_in: Callable[[Any], Iterable[str]] = tuple) -> list[str]:
    """Return the distinct labels of the rows, sorted: first integers, by value, then other labels, alphabetically.

    `labels_in` returns the labels in a row's `labels`: a list, or a text that an objective splits. Raises DataError if there are fewer than
    two labels, or, in 20 or more rows with a `label`, almost as many labels as rows.
    """
    labels: set[str] = set()
    labelled = 0
    for source in sources:
        for row in source.rows():
            if "label" in row.values:
                labelled += 1
                labels.add(str(row.values["label"]))  # str drops the number of a ClassName
            labels.update(map(str, row.values.get("tags", ())))
            labels.update(labels_in(row.values.get("labels", ())))
    names = ", ".join(dict.fromkeys(source.name for source in sources))
    if len(labels) < 2:
        only = f"only the label {labels.pop()!r}" if labels else "no label"
        raise DataError(f"{names}: {only} in all rows, so there is nothing to classify; check the column of the labels")
    if labelled >= _MIN_ROWS and len(labels) > _MAX_DISTINCT * labelled:
        raise DataError(
            f"{names}: {len(labels):,} different labels in {labelled:,} rows, so hardly any class has two rows; name the column of the "
            "classes with columns: {label: NAME}; for numbers set objective={kind: classification, regression: true}; if these are the "
            "classes, name them in objective.labels"
        )
    # The keys of the labels 1 and 01 differ only in their last item.
    return sorted(labels, key=lambda label: (False, int(label), label) if _NUMBER.fullmatch(label) else (True, 0, label))

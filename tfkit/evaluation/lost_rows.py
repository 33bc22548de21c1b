"""Rows of an evaluation that the model cannot be given, or whose answer is none that it has: they count as wrong, and are counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfkit.data import ExampleSet, Row, Source, example_set
from tfkit.data.columns.rows import BadRow, OnBadRow
from tfkit.errors import DataError
from tfkit.evaluation.predictions import Judged
from tfkit.evaluation.written import is_row_of, rows_of
from tfkit.objectives.labelled import LabelledObjective, RowResult


class LostRow(NamedTuple):
    """A row that was not encoded: why, and how many rows of its set that were are before it."""

    row: Row
    reason: str
    before: int


def scored_examples(
    source: Source, objective: LabelledObjective, on_bad_row: OnBadRow, progress: Callable[[int], None] | None = None
) -> ExampleSet:
    """Return the examples of a source, without the rows that are lost, which are no error. Raises DataError for other bad rows."""
    try:
        return example_set(source, objective, on_bad_row, progress)
    except DataError:  # lost rows, perhaps alone
        return example_set(source, objective, on_bad_row, progress, keeps_lost=True)


def lost_rows(source: Source, stored: ExampleSet, objective: LabelledObjective, count: int) -> list[LostRow]:
    """Return the lost rows among the first `count` examples of a set; also those after them if these are all."""
    if not stored.skipped:
        return []
    missing = list(_missing(source, stored, count))
    found = objective.encode([row for row, _ in missing]) if missing else []
    lost = zip(missing, found, strict=True)
    return [LostRow(row, one.kind, before) for (row, before), one in lost if isinstance(one, BadRow) and one.lost]


def _missing(source: Source, stored: ExampleSet, count: int) -> Iterator[tuple[Row, int]]:
    number = 0
    for row in source.rows({}):
        if number < len(stored) and is_row_of(row, stored, number):
            number += 1
            if number == count < len(stored):
                return
        else:
            yield row, number


def within(lost: Sequence[LostRow], count: int, total: int) -> list[LostRow]:
    """Return the lost rows among the first `count` of `total` examples; all if these are all."""
    return [one for one in lost if one.before < count or count == total]


def wrong_answers(objective: LabelledObjective, lost: Sequence[LostRow], first: int) -> list[Judged]:
    """Return the results of lost rows, numbered from `first`: wrong; none for an objective without wrong answers, such as numbers."""
    results = [objective.wrong(one.row) for one in lost]
    return [Judged(first + number, *result) for number, result in enumerate(results) if result is not None]


def completed(objective: LabelledObjective, source: Source, stored: ExampleSet, judged: Sequence[Judged]) -> list[Judged]:
    """Return the results of rows with what was cut off of their answers as wrong."""
    if not (objective.cuts_answers and stored.truncated):
        return list(judged)
    found = {one.number: one for one in judged}
    rows = zip(range(max(found) + 1), rows_of(source, stored), strict=False)
    results = {number: objective.completed(row, RowResult(found[number].sums, found[number].prediction)) for number, row in rows}
    return [Judged(one.number, *results[one.number]) for one in judged]


def reasons(lost: Sequence[LostRow]) -> dict[str, int]:
    """Return how many rows were lost for each reason."""
    return dict(Counter(one.reason for one in lost))


def describe_lost(name: str, lost: Sequence[LostRow], *, by_loss: bool = False) -> str:
    """Describe the lost rows of a set in words; empty if there are none. `by_loss`: the loss alone is reported, which they are not in."""
    if not lost:
        return ""
    first = {one.reason: one.row.place for one in reversed(lost)}
    kinds = ", ".join(f"{count:,} {reason} (first {first[reason]})" for reason, count in reasons(lost).items())
    be, count = ("is", "counts") if len(lost) == 1 else ("are", "count")
    so = f"{be} in no loss, and {count} as wrong where texts are compared" if by_loss else f"{count} as wrong"
    return f"{name}: {len(lost):,} row{'s' * (len(lost) > 1)} that the model cannot process {so}: {kinds}"


def only_class(labels: Sequence[str]) -> str:
    """Return the label of rows that have all the same one; empty for others, and for a single row."""
    return labels[0] if len(labels) > 1 and len(np.unique(labels)) == 1 else ""

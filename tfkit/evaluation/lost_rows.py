"""The rows of an evaluation, read from their source again: those of the stored examples, and lost rows. A lost row has no example, since
the model cannot read it or cannot predict its label. Lost rows are reported, and count as wrong if the objective's answers can be wrong.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from tfkit.data import ExampleSet, Row, Source, example_set
from tfkit.data.columns.rows import BadRow, OnBadRow
from tfkit.data.store.hashes import text_hash
from tfkit.errors import DataError
from tfkit.evaluation.row_scores import RowPrediction
from tfkit.objectives.labelled import LabelledObjective, RowResult


class LostRow(NamedTuple):
    """A lost row, the reason for its loss in a few words, and the number of examples before it."""

    row: Row
    reason: str
    before: int


def scored_examples(
    source: Source, objective: LabelledObjective, on_bad_row: OnBadRow, progress: Callable[[int], None] | None = None
) -> ExampleSet:
    """Return the examples of a source; a lost row has none. Other bad rows are skipped, too, unless `on_bad_row` is "error": then
    raise DataError.
    """
    try:
        return example_set(source, objective, on_bad_row, progress)
    except DataError:  # a second attempt, which skips lost rows and raises only for other bad rows
        return example_set(source, objective, on_bad_row, progress, keeps_lost=True)


def lost_rows(source: Source, stored: ExampleSet, objective: LabelledObjective, count: int) -> list[LostRow]:
    """Return a source's lost rows that precede its example `count`, counted from 1; if that is the last example, return all lost rows."""
    if not stored.skipped:
        return []
    missing = list(_missing(source, stored, count))
    results = objective.encode([row for row, _ in missing]) if missing else []
    pairs = zip(missing, results, strict=True)
    return [LostRow(row, result.kind, before) for (row, before), result in pairs if isinstance(result, BadRow) and result.lost]


def _missing(source: Source, stored: ExampleSet, count: int) -> Iterator[tuple[Row, int]]:
    """Yield the rows that have no example and precede example `count`, counted from 1 (all of them, if that is the last example), each
    with the number of examples before it.
    """
    number = 0
    for row in source.rows({}):
        if number < len(stored) and _is_row_of(row, stored, number):
            number += 1
            if number == count < len(stored):
                return
        else:
            yield row, number


def rows_of(source: Source, stored: ExampleSet) -> Iterator[Row]:
    """Yield the row of each example, read from the source again. Examples have the order of the rows; bad rows have no example.

    The source's files may have been moved to another folder since the examples were stored, so folders are not compared.
    """
    rows = source.rows({})
    for number in range(len(stored)):
        yield next(row for row in rows if _is_row_of(row, stored, number))


def _is_row_of(row: Row, stored: ExampleSet, number: int) -> bool:
    """Whether example `number` was made from a row: both have the same file name, line and text."""
    place = row.place.encode(errors="replace").decode()  # the stored examples have places in this form
    if PurePath(place).name != PurePath(stored.place(number)).name:
        return False
    return text_hash(row.text) == np.asarray(stored.texts[number], "<u8").tobytes()


def within(lost: Sequence[LostRow], count: int, total: int) -> list[LostRow]:
    """Return the lost rows that precede example `count` of `total`, counted from 1; all lost rows if `count` is `total`."""
    return [row for row in lost if row.before < count or count == total]


def wrong_answers(objective: LabelledObjective, lost: Sequence[LostRow], first: int) -> list[RowPrediction]:
    """Return results that count lost rows as wrong, with row indices from `first` on. For an objective such as regression, in which no
    answer is simply wrong, there are no such results.
    """
    results = [objective.wrong(lost_row.row) for lost_row in lost]
    return [RowPrediction(first + number, *result) for number, result in enumerate(results) if result is not None]


def completed(objective: LabelledObjective, source: Source, stored: ExampleSet, judged: Sequence[RowPrediction]) -> list[RowPrediction]:
    """Return the results `judged`, changed so that parts of right answers that encoding cut off count as wrong."""
    if not (objective.cuts_answers and stored.truncated):
        return list(judged)
    by_number = {result.number: result for result in judged}
    rows = zip(range(max(by_number) + 1), rows_of(source, stored), strict=False)
    results = {number: objective.completed(row, RowResult(by_number[number].sums, by_number[number].prediction)) for number, row in rows}
    return [RowPrediction(result.number, *results[result.number]) for result in judged]


def reasons(lost: Sequence[LostRow]) -> dict[str, int]:
    """Return the number of lost rows for each reason."""
    return dict(Counter(row.reason for row in lost))


def describe_lost(name: str, lost: Sequence[LostRow], *, by_loss: bool = False) -> str:
    """Return a sentence about the lost rows of a data set; empty if there are none. `by_loss`: the set is scored by a loss, which omits
    lost rows.
    """
    if not lost:
        return ""
    first = {row.reason: row.row.place for row in reversed(lost)}
    kinds = ", ".join(f"{count:,} {reason} (first {first[reason]})" for reason, count in reasons(lost).items())
    be, count = ("is", "counts") if len(lost) == 1 else ("are", "count")
    effect = f"{be} in no loss, and {count} as wrong where texts are compared" if by_loss else f"{count} as wrong"
    return f"{name}: {len(lost):,} row{'s' * (len(lost) > 1)} that the model cannot process {effect}: {kinds}"

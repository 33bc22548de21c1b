"""Scores of an objective on held-out rows: each row once, in a fixed order, with the same random choices every time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tfkit.data import ExampleRows, Rows
from tfkit.generation.inference import Interrupted, inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.parallel.rank_map import UNWATCHED, BatchWork, Result

Set = TypeVar("Set")


def score_rows(
    model: Transformer, objective: Objective, rows: Rows, batch_size: int, *, max_tokens: int | None = None, work: BatchWork = UNWATCHED
) -> Mapping[str, Sum] | None:
    """Return the objective's sums over all rows, or over the first rows with at most `max_tokens` in total, in float64.

    Return None if the work was stopped.
    """
    sums: dict[str, Sum] = {}

    def measure(batch: Batch) -> dict[str, Sum]:
        return dict(objective.measure(model, batch))

    try:
        for _, measured in judged_batches(model, objective, rows, batch_size, measure, max_tokens, work):
            for name, value in measured.items():
                sums[name] = sums[name] + Sum(*value) if name in sums else Sum(*value)
    except Interrupted:
        return None
    return sums


def judged_batches(
    model: Transformer,
    objective: Objective,
    rows: Rows,
    batch_size: int,
    compute: Callable[[Batch], Result],
    max_tokens: int | None,
    work: BatchWork,
) -> Iterator[tuple[NDArray[np.int64], Result]]:
    """Yield the row numbers of each batch and the result of `compute`, in inference mode; arguments as in `score_rows`.

    The choice of rows depends only on their order in the data, not on a seed or the batch size. Raises Interrupted if the work is stopped.
    """
    device = next(model.parameters()).device

    def compute_batch(numbers: NDArray[np.int64]) -> Result:
        if work.is_stopped():
            raise Interrupted
        return compute(objective.collate(rows.gather(np.zeros(len(numbers), np.int64), numbers)).to(device))

    with inference(model):
        order = rows.order(0)  # groups rows of similar lengths, to reduce padding
        order = order[order < first_rows(rows, max_tokens)]
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for numbers, result in zip(batches, work.deal(compute_batch, batches), strict=True):
            yield numbers, result
            work.progress(len(numbers))


def first_rows(rows: Rows, max_tokens: int | None) -> int:
    """Return the number of first rows of the data with at most `max_tokens` in total; at least 1. None: all rows."""
    if max_tokens is None:
        return len(rows)
    if isinstance(rows, ExampleRows):
        return max(1, int(np.searchsorted(np.cumsum(rows.row_lengths()), max_tokens, side="right")))
    return min(len(rows), max(1, int(max_tokens / rows.mean_tokens)))


def tokens_of_first(rows: Rows, count: int) -> int:
    """Return the number of tokens of the first `count` rows; for rows cut from texts, an estimate from their mean."""
    return int(rows.row_lengths()[:count].sum()) if isinstance(rows, ExampleRows) else round(count * rows.mean_tokens)


class TokenBudget:
    """The number of tokens that may still be scored; None: unlimited. All sets of an evaluation share it; the last may be skipped."""

    def __init__(self, max_tokens: int | None):
        self.left = max_tokens

    def until_spent(self, sets: Iterable[Set]) -> Iterator[Set]:
        """Yield sets while tokens are left; the caller calls `spend` after each."""
        for each in sets:
            if self.left is not None and self.left <= 0:
                return
            yield each

    def spend(self, tokens: int) -> None:
        """Subtract the tokens of a set."""
        if self.left is not None:
            self.left -= tokens

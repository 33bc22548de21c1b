"""Scores of an objective on held-out rows: each row once, in a fixed order, with the same draws every time."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tfkit.data import ExampleRows, Rows
from tfkit.generation.inference import Interrupted, inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.parallel.deal import UNWATCHED, BatchWork, Result


def score_rows(
    model: Transformer,
    objective: Objective,
    rows: Rows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> Mapping[str, Sum] | None:
    """Sum the objective's measures over all rows, or over the first with at most `max_tokens` together, in float64.

    Return None if the work was stopped: half a score is no score.
    """
    sums: dict[str, Sum] = {}

    def measure(batch: Batch) -> dict[str, Sum]:
        return dict(objective.measure(model, batch))

    try:
        for _, measured in judged_batches(model, objective, rows, batch_size, measure, max_tokens, work):
            for name, found in measured.items():
                sums[name] = sums[name] + Sum(*found) if name in sums else Sum(*found)
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
    """Yield the row numbers of each batch, and what `compute` gives for it, in inference mode; arguments as in `score_rows`.

    The choice of rows depends only on their order in the data: on no seed, and not on the batch size. Raise Interrupted if the work is
    stopped.
    """
    device = next(model.parameters()).device

    def one(numbers: NDArray[np.int64]) -> Result:
        if work.is_stopped():
            raise Interrupted
        return compute(objective.collate(rows.gather(np.zeros(len(numbers), np.int64), numbers)).to(device))

    with inference(model):
        order = rows.order(0)  # rows of similar lengths follow each other, to reduce padding
        order = order[order < first_rows(rows, max_tokens)]
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for numbers, found in zip(batches, work.deal(one, batches), strict=True):
            yield numbers, found
            work.progress(len(numbers))


def first_rows(rows: Rows, max_tokens: int | None) -> int:
    """Return how many rows at the data's beginning have at most `max_tokens` together; at least one. None: all rows."""
    if max_tokens is None:
        return len(rows)
    if isinstance(rows, ExampleRows):
        return max(1, int(np.searchsorted(np.cumsum(rows.row_lengths()), max_tokens, side="right")))
    return min(len(rows), max(1, int(max_tokens / rows.mean_tokens)))


def tokens_of_first(rows: Rows, count: int) -> int:
    """Return the tokens of the first `count` rows; for rows cut from texts from their mean."""
    return int(rows.row_lengths()[:count].sum()) if isinstance(rows, ExampleRows) else round(count * rows.mean_tokens)

"""How well a model does its objective on held-out rows: each row once, in a fixed order, with the same draws every time."""

from collections.abc import Callable, Mapping

import numpy as np

from tfkit.data import Rows
from tfkit.generation.inference import inference
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import Objective, Sum


def score_rows(
    model: Transformer,
    objective: Objective,
    rows: Rows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Mapping[str, Sum] | None:
    """What the objective measures, added up over all rows, or over the first whole batches that have `max_tokens`; sums in float64.

    `progress(n)` tells of n more rows. None if `should_stop`, asked before every batch, said so: half a score is no score.
    """
    sums: dict[str, Sum] = {}
    device = next(model.parameters()).device
    tokens = 0
    with inference(model):
        order = rows.order(0)
        for start in range(0, len(order), batch_size):
            if should_stop is not None and should_stop():
                return None
            if max_tokens is not None and tokens >= max_tokens:
                break
            numbers = order[start : start + batch_size]
            batch = objective.collate(rows.gather(np.zeros(len(numbers), np.int64), numbers))
            tokens += batch.tokens
            for name, found in objective.measure(model, batch.to(device)).items():
                sums[name] = sums[name] + found if name in sums else found
            if progress is not None:
                progress(len(numbers))
    return sums

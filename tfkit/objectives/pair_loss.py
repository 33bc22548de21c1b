"""The loss and the results of pairs of scores, for reward models and for DPO, whose scores are implicit rewards."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from tfkit.objectives.labelled import RowResult
from tfkit.objectives.metrics.preferences import rate_right
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.preference_rows import differences, pair_rows, prompts_in


def pair_losses(values: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Return -log sigmoid of each pair's margin, times its weight in the mean over its prompt's pairs: values (C,) -> (P,).

    With `smoothing` e a pair has the weight 1 - e, and the reversed pair e (conservative DPO).
    """
    margins = differences(values, batch)
    losses = -F.logsigmoid(margins)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * F.logsigmoid(-margins)
    return losses * batch.extras["share"]


def pair_results(term: str, values: Tensor, batch: Batch, smoothing: float = 0.0) -> Iterator[RowResult]:
    """Yield the sums of each prompt, with the loss under the name `term`, and the margins of its pairs."""
    rows, margins = pair_rows(batch).cpu().numpy(), differences(values, batch).cpu().double().numpy()
    losses = pair_losses(values, batch, smoothing).cpu().double().numpy()
    right = rate_right(margins)
    for row in range(prompts_in(batch)):
        is_own = rows == row
        count = int(is_own.sum())
        sums = {
            term: Sum(float(losses[is_own].sum()), 1),
            "accuracy": Sum(float(right[is_own].sum()), count),
            "margin": Sum(float(margins[is_own].sum()), count),
        }
        yield RowResult(sums, {"margins": margins[is_own].tolist()})


def sum_results(results: Iterator[RowResult]) -> dict[str, Sum]:
    """Add up the sums of rows, which all have the same names."""
    first, *others = [result.sums for result in results]
    return {name: sum((row[name] for row in others), start=value) for name, value in first.items()}

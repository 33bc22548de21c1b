"""The loss of pairs of scores, and what an evaluation says of them: for reward models and for DPO, whose scores are implicit rewards."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from tfkit.objectives.labelled import RowResult
from tfkit.objectives.metrics.preferences import rate_right
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.preference_rows import differences, pair_rows, prompts_in


def pair_losses(values: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Return -log sigmoid of each pair's difference times its share in the loss of its prompt: values (C,) -> (P,).

    With `smoothing` e a pair counts 1 - e as it is and e the other way round (conservative DPO).
    """
    margins = differences(values, batch)
    losses = -F.logsigmoid(margins)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * F.logsigmoid(-margins)
    return losses * batch.extras["share"]


def pair_results(term: str, values: Tensor, batch: Batch, smoothing: float = 0.0) -> Iterator[RowResult]:
    """Yield the sums of each prompt, of its loss under the name `term`, and the margins of its pairs."""
    rows, margins = pair_rows(batch).cpu().numpy(), differences(values, batch).cpu().double().numpy()
    losses = pair_losses(values, batch, smoothing).cpu().double().numpy()
    right = rate_right(margins)
    for row in range(prompts_in(batch)):
        mine = rows == row
        count = int(mine.sum())
        sums = {
            term: Sum(float(losses[mine].sum()), 1),
            "accuracy": Sum(float(right[mine].sum()), count),
            "margin": Sum(float(margins[mine].sum()), count),
        }
        yield RowResult(sums, {"margins": margins[mine].tolist()})


def sum_results(results: Iterator[RowResult]) -> dict[str, Sum]:
    """Add up the sums of rows, which all have the same ones."""
    found = [one.sums for one in results]
    return {name: sum((one[name] for one in found[1:]), start=found[0][name]) for name in found[0]}

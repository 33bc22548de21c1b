"""The loss, the results and the metrics of pairs of scores, for reward models and for DPO, whose scores are implicit rewards."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tfkit.objectives.labelled import RowResult
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.preference_rows import differences, pair_rows, prompts_in

_BINS = 10


def calibration_metrics(margins: Sequence[Sequence[float]]) -> Scores:
    """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599) of pairs, from the margins of each row (N lists).

    A pair with margin m is decided with confidence sigmoid(|m|), in one of ten bins from 0.5 to 1. `calibration` is the mean over pairs of
    the distance between the confidence and the accuracy of their bin.
    """
    rows = np.repeat(np.arange(len(margins)), [len(row) for row in margins])
    values = np.array([value for row in margins for value in row], np.float64)
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(values), 700)))
    bins = np.minimum(_BINS - 1, ((confidence - 0.5) * 2 * _BINS).astype(np.int64)) if np.isfinite(values).all() else None
    right = rate_right(values)

    def scores(weights: Numbers) -> dict[str, float]:
        pair_weights = weights[rows]
        if bins is None or not pair_weights.sum():
            return {"calibration": math.nan}
        gaps = np.bincount(bins, pair_weights * (right - confidence), _BINS)  # (bins,): accuracy minus confidence, times the pairs
        return {"calibration": float(np.abs(gaps).sum() / pair_weights.sum())}

    return scores


def rate_right(margins: Numbers) -> Numbers:
    """Return 1 for each pair that is decided correctly, 0 for a wrong one, and 0.5 for a tie: margins (P,) -> (P,)."""
    return (np.sign(margins) + 1) / 2


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

"""Metrics of preferences: how often, and by how much, the better completion of a pair has the higher score."""

import math
from collections.abc import Sequence

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores

_BINS = 10


def calibration_metrics(margins: Sequence[Sequence[float]]) -> Scores:
    """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599) of pairs, by the margins of each row (N lists).

    A pair whose scores differ by m is decided with the confidence sigmoid(|m|), in one of ten bins from 0.5 to 1. `calibration` is the
    mean over all pairs of the distance between the confidence and the accuracy of a bin.
    """
    rows = np.repeat(np.arange(len(margins)), [len(one) for one in margins])
    values = np.array([value for one in margins for value in one], np.float64)
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(values), 700)))
    bins = np.minimum(_BINS - 1, ((confidence - 0.5) * 2 * _BINS).astype(np.int64)) if np.isfinite(values).all() else None
    right = rate_right(values)

    def scores(weights: Numbers) -> dict[str, float]:
        of_pairs = weights[rows]
        if bins is None or not of_pairs.sum():
            return {"calibration": math.nan}
        gaps = np.bincount(bins, of_pairs * (right - confidence), _BINS)  # (bins,): accuracy minus confidence, times the pairs
        return {"calibration": float(np.abs(gaps).sum() / of_pairs.sum())}

    return scores


def rate_right(margins: Numbers) -> Numbers:
    """Return 1 for each pair that is decided rightly, 0 for a wrong one, and a half for a tie: margins (P,) -> (P,)."""
    return (np.sign(margins) + 1) / 2

"""Metrics of preferences: how often the better completion of a pair has the higher score, and the calibration."""

import math
from collections.abc import Sequence

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores

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

"""Metrics of numbers. They equal scipy's: a correlation with something constant is not a number."""

import math

import numpy as np

from tfkit.evaluation.scores import Numbers, Scores


def of_numbers(there: Numbers, told: Numbers) -> Scores:
    """The right and the told values, (N,) each: `rmse`, `pearson`, and `spearman`, which is Pearson's of the ranks, ties sharing theirs."""
    there, told = there.astype(np.float64), told.astype(np.float64)
    (_, ranks_there), (_, ranks_told) = (np.unique(values, return_inverse=True) for values in (there, told))

    def scores(weights: Numbers) -> dict[str, float]:
        counted = weights > 0
        if not np.isfinite(told[counted]).all():
            return dict.fromkeys(("rmse", "pearson", "spearman"), math.nan)
        ranks = [_ranks(numbers, weights)[counted] for numbers in (ranks_there, ranks_told)]
        first, second, weights = there[counted], told[counted], weights[counted]
        return {
            "rmse": math.sqrt(float(weights @ (first - second) ** 2) / float(weights.sum())),
            "pearson": _pearson(first, second, weights),
            "spearman": _pearson(ranks[0], ranks[1], weights),
        }

    return scores


def _pearson(first: Numbers, second: Numbers, weights: Numbers) -> float:
    if first.min() == first.max() or second.min() == second.max():
        return math.nan
    first, second = (values - weights @ values / weights.sum() for values in (first, second))
    first, second = (values / np.abs(values).max() for values in (first, second))  # else squares of tiny values vanish
    lengths = float(weights @ first**2), float(weights @ second**2)
    return min(1.0, max(-1.0, float(weights @ (first * second)) / (math.sqrt(lengths[0]) * math.sqrt(lengths[1]))))


def _ranks(numbers: Numbers, weights: Numbers) -> Numbers:
    """The mean rank of each row among all, each as often as it counts; `numbers` are places among the distinct values, (N,)."""
    counts = np.bincount(numbers, weights)
    return (counts.cumsum() - (counts - 1) / 2)[numbers]

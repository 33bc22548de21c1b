"""Metrics of numbers. They equal scipy's: a correlation with a constant is NaN."""

import math

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores


def regression_metrics(targets: Numbers, predictions: Numbers) -> Scores:
    """Return the metrics of numbers, (N,) each: `rmse`, `pearson`, and `spearman`, Pearson's correlation of ranks (of ties: the mean)."""
    targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
    (_, target_ranks), (_, predicted_ranks) = (np.unique(values, return_inverse=True) for values in (targets, predictions))

    def scores(weights: Numbers) -> dict[str, float]:
        counted = weights > 0
        if not np.isfinite(predictions[counted]).all():
            return dict.fromkeys(("rmse", "pearson", "spearman"), math.nan)
        ranks = [_ranks(numbers, weights)[counted] for numbers in (target_ranks, predicted_ranks)]
        first, second, weights = targets[counted], predictions[counted], weights[counted]
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
    first, second = (values / np.abs(values).max() for values in (first, second))  # unscaled, the squares of tiny values would vanish
    lengths = float(weights @ first**2), float(weights @ second**2)
    return min(1.0, max(-1.0, float(weights @ (first * second)) / (math.sqrt(lengths[0]) * math.sqrt(lengths[1]))))


def _ranks(numbers: Numbers, weights: Numbers) -> Numbers:
    """Return the mean rank of each row among the weighted rows; `numbers` (N,): the index of its value among the sorted distinct ones."""
    counts = np.bincount(numbers, weights)
    return (counts.cumsum() - (counts - 1) / 2)[numbers]

"""Metrics of classes. They equal scikit-learn's, with the same answers where a ratio is 0 / 0."""

import math

import numpy as np

from tfkit.evaluation.scores import Numbers, Scores


def of_classes(there: Numbers, told: Numbers) -> Scores:
    """The numbers of the right and the told classes, (N,) each.

    `accuracy`, `f1_macro` over the classes that are there or told of (rare ones count as much as frequent ones), `f1_micro`, which is
    the accuracy where each row has one class, `matthews` (Gorodkin 2004, for any number of classes; 0 where only one is there or told),
    and `majority`: the accuracy of always saying the most frequent class of the whole set.
    """
    count = int(max(there.max(), told.max())) + 1
    most = int(np.bincount(there).argmax())
    right = there == told

    def scores(weights: Numbers) -> dict[str, float]:
        total = float(weights.sum())
        hits = np.bincount(there, weights * right, count)  # (classes,)
        is_there, is_told = np.bincount(there, weights, count), np.bincount(told, weights, count)
        seen = is_there + is_told > 0
        accuracy = float(hits.sum()) / total
        return {
            "accuracy": accuracy,
            "f1_macro": float((2 * hits[seen] / (is_there + is_told)[seen]).mean()),
            "f1_micro": accuracy,
            "matthews": _matthews(float(hits.sum()), is_there, is_told, total),
            "majority": float(is_there[most]) / total,
        }

    return scores


def of_words(there: Numbers, told: Numbers, rows: Numbers) -> Scores:
    """The same of words (W,), each of which counts as often as its row, `rows` (W,)."""
    words = of_classes(there, told)
    return lambda weights: words(weights[rows])


def _matthews(hits: float, there: Numbers, told: Numbers, total: float) -> float:
    """The correlation of two ways to divide a set into classes."""
    of_both = total**2 - float(there @ there), total**2 - float(told @ told)
    return (hits * total - float(there @ told)) / math.sqrt(of_both[0] * of_both[1]) if min(of_both) > 0 else 0.0

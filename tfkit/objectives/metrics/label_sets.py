"""Metrics of sets of labels. They equal scikit-learn's of indicator matrices, with the same answers where a ratio is 0 / 0."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.metrics.classes import ratios


def label_set_metrics(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], count: int) -> Scores:
    """Metrics of the numbers of the labels of each row, of `count` labels in all.

    `f1_micro`, `precision` and `recall` over all pairs of a row and a label, and `f1_macro`, the mean over labels, where a label that
    is never a target nor predicted counts as 0.
    """
    hits, are_targets, are_predicted = _entries(targets, predictions)

    def scores(weights: Numbers) -> dict[str, float]:
        found, wanted, given = (
            np.bincount(labels, weights[rows], count) for rows, labels in (hits, are_targets, are_predicted)
        )  # (labels,) each
        return {
            "f1_micro": _ratio(2 * found.sum(), wanted.sum() + given.sum()),
            "f1_macro": float(np.mean([_ratio(2 * hit, both) for hit, both in zip(found, wanted + given, strict=True)])),
            "precision": _ratio(found.sum(), given.sum()),
            "recall": _ratio(found.sum(), wanted.sum()),
        }

    return scores


def label_set_figures(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], labels: Sequence[str]) -> dict[str, Any]:
    """`classes`: the `ratios` of each label that is a target or a prediction."""
    hits, wanted, given = (np.bincount(of, minlength=len(labels)).tolist() for _, of in _entries(targets, predictions))
    return {
        "classes": {
            label: ratios(hit, predicted, right)
            for label, hit, right, predicted in zip(labels, hits, wanted, given, strict=True)
            if right or predicted
        }
    }


def _entries(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]) -> list[tuple[Numbers, Numbers]]:
    """Return the row and the label of every hit, of every target, and of every prediction."""
    pairs = [({*right}, {*predicted}) for right, predicted in zip(targets, predictions, strict=True)]
    return [_flat(sets) for sets in ([r & p for r, p in pairs], [r for r, _ in pairs], [p for _, p in pairs])]


def _flat(sets: Sequence[set[int]]) -> tuple[Numbers, Numbers]:
    """Return the row and the label of every entry."""
    rows = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    return rows, np.array([label for one in sets for label in sorted(one)], np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

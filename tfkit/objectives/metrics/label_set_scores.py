"""Metrics of sets of labels. They equal scikit-learn's for indicator matrices, including the cases of 0 / 0."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.metrics.classes import ratios


def label_set_metrics(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], count: int) -> Scores:
    """Return the metrics of label numbers of each row; `count`: the number of labels.

    `f1_micro`, `precision` and `recall` are over all pairs of a row and a label; `f1_macro` is the mean over labels, with 0 for a label
    that is neither a target nor predicted.
    """
    hits, are_targets, are_predicted = _entries(targets, predictions)

    def scores(weights: Numbers) -> dict[str, float]:
        hit, target, predicted = (
            np.bincount(labels, weights[rows], count) for rows, labels in (hits, are_targets, are_predicted)
        )  # (labels,) each
        return {
            "f1_micro": _ratio(2 * hit.sum(), target.sum() + predicted.sum()),
            "f1_macro": float(np.mean([_ratio(2 * h, both) for h, both in zip(hit, target + predicted, strict=True)])),
            "precision": _ratio(hit.sum(), predicted.sum()),
            "recall": _ratio(hit.sum(), target.sum()),
        }

    return scores


def label_set_figures(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], labels: Sequence[str]) -> dict[str, Any]:
    """Return `classes`: the `ratios` of each label that is a target or a prediction."""
    hits, are_targets, are_predicted = (np.bincount(of, minlength=len(labels)).tolist() for _, of in _entries(targets, predictions))
    return {
        "classes": {
            label: ratios(hit, predicted, right)
            for label, hit, right, predicted in zip(labels, hits, are_targets, are_predicted, strict=True)
            if right or predicted
        }
    }


def _entries(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]) -> list[tuple[Numbers, Numbers]]:
    """Return the rows and the labels of hits, of targets, and of predictions."""
    pairs = [({*right}, {*predicted}) for right, predicted in zip(targets, predictions, strict=True)]
    return [_flat(sets) for sets in ([r & p for r, p in pairs], [r for r, _ in pairs], [p for _, p in pairs])]


def _flat(sets: Sequence[set[int]]) -> tuple[Numbers, Numbers]:
    """Return the row and the label of each element of the rows' sets."""
    rows = np.repeat(np.arange(len(sets)), [len(labels) for labels in sets])
    return rows, np.array([label for labels in sets for label in sorted(labels)], np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

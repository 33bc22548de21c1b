"""Metrics of classes, and of sets of labels. Values equal scikit-learn's (for sets, on indicator matrices); in both, 0 / 0 counts as 0."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores


def classification_metrics(targets: Numbers, predictions: Numbers) -> Scores:
    """Return a function from row weights to the metrics of classes, given targets and predictions as class indices, (N,).

    `accuracy`; `f1_macro`, the unweighted mean F1 of classes that are a target or a prediction; `f1_micro`, which equals the accuracy, as
    each row has one class; `matthews` (Gorodkin 2004, for any number of classes; 0 if all targets or all predictions are one class); and
    `majority`: the accuracy of always predicting the most frequent target of all N rows.
    """
    count = int(max(targets.max(), predictions.max())) + 1
    most = int(np.bincount(targets).argmax())
    right = targets == predictions

    def scores(weights: Numbers) -> dict[str, float]:
        total = float(weights.sum())
        hits = np.bincount(targets, weights * right, count)  # (classes,)
        is_target, is_predicted = np.bincount(targets, weights, count), np.bincount(predictions, weights, count)
        seen = is_target + is_predicted > 0
        accuracy = float(hits.sum()) / total
        return {
            "accuracy": accuracy,
            "f1_macro": float((2 * hits[seen] / (is_target + is_predicted)[seen]).mean()),
            "f1_micro": accuracy,
            "matthews": _matthews(float(hits.sum()), is_target, is_predicted, total),
            "majority": float(is_target[most]) / total,
        }

    return scores


def tag_metrics(targets: Numbers, predictions: Numbers, rows: Numbers) -> Scores:
    """Return a function from row weights to the `classification_metrics` of W words. `rows`: each word's row index; (W,) each."""
    words = classification_metrics(targets, predictions)
    return lambda weights: words(weights[rows])


def class_metrics(targets: Numbers, predictions: Numbers, labels: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of each class that is a target or a prediction, from class indices, (N,) each.

    `classes`: the `ratios` of each class; `confusion`: for each target class, how often each class is predicted, without zeros.
    """
    pairs, counts = np.unique(np.stack([targets, predictions]), axis=1, return_counts=True)
    confusion: dict[str, dict[str, int]] = {}
    for right, predicted, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        confusion.setdefault(labels[right], {})[labels[predicted]] = count
    hits, is_target, is_predicted = (
        np.bincount(numbers, minlength=len(labels)) for numbers in (targets[targets == predictions], targets, predictions)
    )
    seen: list[int] = np.flatnonzero(is_target + is_predicted).tolist()
    classes = {labels[k]: ratios(int(hits[k]), int(is_predicted[k]), int(is_target[k])) for k in seen}
    return {"classes": classes, "confusion": confusion}


def ratios(hits: int, predicted: int, targets: int) -> dict[str, float]:
    """Return `precision`, `recall`, `f1` and `support`, the number of targets; a ratio 0 / 0 counts as 0."""
    parts = {"precision": (hits, predicted), "recall": (hits, targets), "f1": (2 * hits, predicted + targets)}
    return {**{name: _ratio(*part) for name, part in parts.items()}, "support": targets}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _matthews(hits: float, targets: Numbers, predictions: Numbers, total: float) -> float:
    """Return Matthews' correlation coefficient from the numbers of hits, of each class's targets and predictions, and of rows (`total`)."""
    spreads = total**2 - float(targets @ targets), total**2 - float(predictions @ predictions)
    return (hits * total - float(targets @ predictions)) / math.sqrt(spreads[0] * spreads[1]) if min(spreads) > 0 else 0.0


def label_set_metrics(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], count: int) -> Scores:
    """Return a function from row weights to the metrics of sets of label indices, one set per row. `count`: the number of labels.

    `f1_micro`, `precision` and `recall` are over all pairs of a row and a label; `f1_macro` is the mean over labels, with 0 for a label
    that is neither a target nor predicted.
    """
    hits, are_targets, are_predicted = _entries(targets, predictions)

    def scores(weights: Numbers) -> dict[str, float]:
        # (labels,) each
        hit, target, predicted = (np.bincount(of, weights[rows], count) for rows, of in (hits, are_targets, are_predicted))
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
    """Return three pairs of arrays, for hits, targets and predictions: the row and the label of each element of the rows' sets."""
    pairs = [({*right}, {*predicted}) for right, predicted in zip(targets, predictions, strict=True)]
    return [_flat(sets) for sets in ([r & p for r, p in pairs], [r for r, _ in pairs], [p for _, p in pairs])]


def _flat(sets: Sequence[set[int]]) -> tuple[Numbers, Numbers]:
    """Return the row and the label of each element of the sets, one set per row."""
    rows = np.repeat(np.arange(len(sets)), [len(labels) for labels in sets])
    return rows, np.array([label for labels in sets for label in sorted(labels)], np.int64)

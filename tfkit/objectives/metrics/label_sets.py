"""Metrics of sets of labels. They equal scikit-learn's of indicator matrices, with the same answers where a ratio is 0 / 0."""

from collections.abc import Sequence

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores


def label_set_metrics(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], count: int) -> Scores:
    """Metrics of the numbers of the labels of each row, of `count` labels in all.

    `f1_micro`, `precision` and `recall` over all pairs of a row and a label, and `f1_macro`, the mean over labels, where a label that
    is never a target nor predicted counts as 0.
    """
    pairs = [({*right}, {*predicted}) for right, predicted in zip(targets, predictions, strict=True)]
    hits, are_targets, are_predicted = (_flat(sets) for sets in ([r & p for r, p in pairs], [r for r, _ in pairs], [p for _, p in pairs]))

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


def _flat(sets: Sequence[set[int]]) -> tuple[Numbers, Numbers]:
    """Return the row and the label of every entry."""
    rows = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    return rows, np.array([label for one in sets for label in sorted(one)], np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

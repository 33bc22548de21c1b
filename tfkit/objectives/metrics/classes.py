"""Metrics of classes, of sets of labels, and of the names that tags mark.

They equal scikit-learn's (for sets those of indicator matrices), including 0 / 0.

Tags may mark names: B-person begins one, I-person continues it, O is outside (Ramshaw and Marcus 1995; CoNLL-2003). Also IOE, where E- ends
a name, and IOBES, where S- is a whole name. Precision, recall and F1 of names are as in seqeval's default mode: only an exact span and kind
counts as right, and invalid sequences are read as there.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores


def classification_metrics(targets: Numbers, predictions: Numbers) -> Scores:
    """Return the metrics of class numbers, (N,) each.

    `accuracy`; `f1_macro`, the unweighted mean over classes that are a target or a prediction; `f1_micro`, which equals the accuracy, as
    each row has one class; `matthews` (Gorodkin 2004, for any number of classes; 0 if all targets or all predictions are one class); and
    `majority`: the accuracy of always predicting the most frequent class of the whole set.
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
    """Return the same metrics over words (W,), each with the weight of its row, `rows` (W,)."""
    words = classification_metrics(targets, predictions)
    return lambda weights: words(weights[rows])


def class_metrics(targets: Numbers, predictions: Numbers, labels: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of each class that is a target or a prediction, from class numbers, (N,) each.

    `classes`: the `ratios` of each class; `confusion`: the counts of predictions for each target class, without zeros.
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
    """Return `precision`, `recall`, `f1` and `support`, the number of targets; 0 for 0 / 0."""
    parts = {"precision": (hits, predicted), "recall": (hits, targets), "f1": (2 * hits, predicted + targets)}
    return {**{name: _ratio(*part) for name, part in parts.items()}, "support": targets}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _matthews(hits: float, targets: Numbers, predictions: Numbers, total: float) -> float:
    """Return the correlation coefficient of two partitions into classes, from their class counts."""
    spreads = total**2 - float(targets @ targets), total**2 - float(predictions @ predictions)
    return (hits * total - float(targets @ predictions)) / math.sqrt(spreads[0] * spreads[1]) if min(spreads) > 0 else 0.0


def label_set_metrics(targets: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], count: int) -> Scores:
    """Return the metrics of label numbers of each row; `count`: the number of labels.

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
    """Return the rows and the labels of hits, of targets, and of predictions."""
    pairs = [({*right}, {*predicted}) for right, predicted in zip(targets, predictions, strict=True)]
    return [_flat(sets) for sets in ([r & p for r, p in pairs], [r for r, _ in pairs], [p for _, p in pairs])]


def _flat(sets: Sequence[set[int]]) -> tuple[Numbers, Numbers]:
    """Return the row and the label of each element of the rows' sets."""
    rows = np.repeat(np.arange(len(sets)), [len(labels) for labels in sets])
    return rows, np.array([label for labels in sets for label in sorted(labels)], np.int64)


class Span(NamedTuple):
    """A name of a `kind`: the words from `start` to before `end`."""

    start: int
    end: int
    kind: str


def mark_spans(tags: Sequence[str]) -> bool:
    """Whether the tags mark spans, instead of classifying single words."""
    return any(tag.startswith(("B-", "I-", "E-", "S-")) for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans of a sentence, as CoNLL's conlleval does: an I- without a span of its kind to continue begins a span."""
    marked: set[Span] = set()
    start, last, last_kind = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(last, letter) or (last not in ("O", ".") and kind != last_kind):
            marked.add(Span(start, place, last_kind))
        if _begins(last, letter) or (letter not in ("O", ".") and kind != last_kind):
            start = place
        last, last_kind = letter, kind
    return marked


def _ends(last: str, letter: str) -> bool:
    """Whether a span ends between two words whose tags begin with these letters."""
    return last in ("E", "S") or (last in ("B", "I") and letter in ("B", "S", "O"))


def _begins(last: str, letter: str) -> bool:
    """Whether a span begins between them."""
    return letter in ("B", "S") or (last in ("E", "S", "O") and letter in ("E", "I"))


def entity_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Scores:
    """Return `precision`, `recall` and `f1` from the tags of each sentence; 0 for 0 / 0."""
    pairs = [(spans(right), spans(predicted)) for right, predicted in zip(targets, predictions, strict=True)]
    counts = np.array([(len(right & predicted), len(predicted), len(right)) for right, predicted in pairs], np.float64)  # (N, 3)

    def scores(weights: Numbers) -> dict[str, float]:
        figures = ratios(*(weights @ counts).tolist())
        return {name: figures[name] for name in ("precision", "recall", "f1")}

    return scores


def entity_figures(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return the `ratios` of each kind of name, in alphabetical order."""
    hits: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for target_tags, predicted_tags in zip(targets, predictions, strict=True):
        target_spans, predicted_spans = spans(target_tags), spans(predicted_tags)
        for counts, counted in ((hits, target_spans & predicted_spans), (predicted, predicted_spans), (right, target_spans)):
            counts.update(span.kind for span in counted)
    return {kind: ratios(hits[kind], predicted[kind], right[kind]) for kind in sorted(predicted.keys() | right.keys())}

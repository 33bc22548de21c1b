"""Precision, recall and F1 of the names that tags mark, as in seqeval's default mode: only an exact span and kind counts as right."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.metrics.classes import ratios
from tfkit.objectives.metrics.tag_spans import spans


def entity_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Scores:
    """Return `precision`, `recall` and `f1` from the tags of each sentence; 0 for 0 / 0."""
    pairs = [(spans(right), spans(predicted)) for right, predicted in zip(targets, predictions, strict=True)]
    counts = np.array([(len(right & predicted), len(predicted), len(right)) for right, predicted in pairs], np.float64)  # (N, 3)

    def scores(weights: Numbers) -> dict[str, float]:
        hits, all_predicted, all_targets = (weights @ counts).tolist()
        precision, recall = (hits / total if total else 0.0 for total in (all_predicted, all_targets))
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * hits / (all_predicted + all_targets) if all_predicted + all_targets else 0.0,
        }

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

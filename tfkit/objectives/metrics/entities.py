"""Precision, recall and F1 of the names that tags mark, as seqeval gives them (its default mode): a name is right as a whole or not."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.metrics.classes import ratios
from tfkit.objectives.metrics.tag_spans import spans


def entity_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Scores:
    """Metrics of the tags of each sentence: `precision`, `recall`, `f1`; 0 where there is nothing to be right about."""
    pairs = [(spans(right), spans(predicted)) for right, predicted in zip(targets, predictions, strict=True)]
    counts = np.array([(len(right & predicted), len(predicted), len(right)) for right, predicted in pairs], np.float64)  # (N, 3)

    def scores(weights: Numbers) -> dict[str, float]:
        found, all_predicted, all_targets = (weights @ counts).tolist()
        precision, recall = (found / all_of_them if all_of_them else 0.0 for all_of_them in (all_predicted, all_targets))
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * found / (all_predicted + all_targets) if all_predicted + all_targets else 0.0,
        }

    return scores


def entity_figures(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """`ratios` of each kind of name, in the order of the alphabet."""
    hits: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one, other in zip(targets, predictions, strict=True):
        here, found = spans(one), spans(other)
        for counts, some in ((hits, here & found), (predicted, found), (right, here)):
            counts.update(span.kind for span in some)
    return {kind: ratios(hits[kind], predicted[kind], right[kind]) for kind in sorted(predicted.keys() | right.keys())}

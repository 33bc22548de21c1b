"""Precision, recall and F1 of the names that tags mark, as seqeval gives them (its default mode): a name is right as a whole or not."""

from collections.abc import Sequence

import numpy as np

from tfkit.evaluation.scores import Numbers, Scores
from tfkit.objectives.tag_spans import spans


def of_names(there: Sequence[Sequence[str]], told: Sequence[Sequence[str]]) -> Scores:
    """The right and the told tags of each sentence: `precision`, `recall`, `f1`; 0 where there is nothing to be right about."""
    pairs = [(spans(right), spans(said)) for right, said in zip(there, told, strict=True)]
    counts = np.array([(len(right & said), len(said), len(right)) for right, said in pairs], np.float64)  # (N, 3)

    def scores(weights: Numbers) -> dict[str, float]:
        found, all_told, all_there = (weights @ counts).tolist()
        precision, recall = (found / all_of_them if all_of_them else 0.0 for all_of_them in (all_told, all_there))
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * found / (all_told + all_there) if all_told + all_there else 0.0,
        }

    return scores

"""From what a model says of the rows of a set to all metrics of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.evaluation.predictions import Judged, Labelled
from tfkit.evaluation.scores import Scores, together
from tfkit.evaluation.scores.classes import of_classes, of_words
from tfkit.evaluation.scores.entities import of_names
from tfkit.evaluation.scores.regression import of_numbers
from tfkit.evaluation.scores.sums import of_sums
from tfkit.evaluation.scores.texts import of_texts
from tfkit.objectives.classification import Classification
from tfkit.objectives.tag_spans import mark_spans
from tfkit.objectives.tagging import Tagging


def of_answers(objective: Labelled, judged: Sequence[Judged], text_metrics: Sequence[str] = ()) -> Scores:
    """What the objective itself measures, and the metrics of its kind of answer; of written texts those that are named."""
    return together([of_sums(objective, [one.sums for one in judged]), *_of_kind(objective, [one.said for one in judged], text_metrics)])


def _of_kind(objective: Labelled, said: Sequence[dict[str, Any]], text_metrics: Sequence[str]) -> list[Scores]:
    if isinstance(objective, Classification) and objective.section.regression:
        return [of_numbers(*(np.array([one[name] for one in said]) for name in ("value", "predicted")))]
    if isinstance(objective, Classification):
        numbers = {label: number for number, label in enumerate(objective.labels)}
        return [of_classes(*(np.array([numbers[one[name]] for one in said]) for name in ("label", "predicted")))]
    if isinstance(objective, Tagging):
        numbers = {label: number for number, label in enumerate(objective.labels)}
        there, told = (np.array([numbers[tag] for one in said for tag in one[name]]) for name in ("tags", "predicted"))
        rows = np.repeat(np.arange(len(said)), [len(one["tags"]) for one in said])
        names = [of_names([one["tags"] for one in said], [one["predicted"] for one in said])] if mark_spans(objective.labels) else []
        return [of_words(there, told, rows), *names]
    if text_metrics:
        return [of_texts([one["text"] for one in said], [one["references"] for one in said], text_metrics)]
    return []

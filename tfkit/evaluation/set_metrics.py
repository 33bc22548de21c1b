"""Metrics of a whole set, from the weighted sums of each row's results."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfkit.evaluation.text_scores import TextScore, text_metrics
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.objective import Objective, Sum


def loss_metrics(objective: Objective, rows: Sequence[Mapping[str, Sum]]) -> Scores:
    """Return the objective's metrics from the sums of each row; a lost row may lack some."""
    names, zero = list(dict.fromkeys(name for row in rows for name in row)), Sum(0.0, 0)
    totals, targets = (
        np.array([[getattr(row.get(name, zero), part) for name in names] for row in rows], np.float64) for part in ("total", "targets")
    )  # (N, names)

    def scores(weights: Numbers) -> dict[str, float]:
        sums = zip(names, (weights @ totals).tolist(), (weights @ targets).tolist(), strict=True)
        return objective.metrics({name: Sum(total, round(count)) for name, total, count in sums})

    return scores


def text_score_metrics(score: TextScore) -> Scores:
    """Return the loss, perplexity and bits per byte of a language model over texts."""

    def scores(weights: Numbers) -> dict[str, float]:
        return text_metrics(*(float(weights @ part) for part in (score.losses, score.targets, score.bytes)))

    return scores

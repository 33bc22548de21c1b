"""Judge a training: does its best checkpoint beat the baselines (scores without a Transformer), and if not, what can the user try?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfkit.evaluation.baselines import Baselines
from tfkit.recipe.schema.objective_sections import HIGHER, best_value
from tfkit.units import baseline_metric

Metrics = Mapping[str, float | None]
_HARDLY = 0.02  # a change of the loss by a smaller fraction of the first loss counts as no change


@dataclass(frozen=True)
class Comparison:
    """A model's score and that of the best baseline, by one metric."""

    metric: str
    score: float
    baseline: str  # its name
    value: float  # the score of the baseline
    is_constant: bool = False  # whether the model predicts one class for all rows

    @property
    def beats(self) -> bool:
        """Whether the model is better than the baseline. False if the scores are equal, or if the model predicts one class for all rows."""
        return not self.is_constant and (self.score > self.value if self.metric in HIGHER else self.score < self.value)

    @property
    def is_perfect(self) -> bool:
        """Whether the model and the baseline both have the best possible score."""
        return self.score == self.value == best_value(self.metric)


def compare(baselines: Baselines, metrics: Metrics, preferred: str | None = None) -> Comparison | None:
    """Compare a model with the best baseline, by the metric `preferred` if a baseline has it, else by a metric that the baselines have.

    Return None without baselines, or if `metrics` lack the metric that is compared.
    """
    metric = baseline_metric(baselines, preferred)
    if metric is None or metric not in metrics:
        return None
    known = {name: scores[metric] for name, scores in baselines.items() if metric in scores}
    best = (max if metric in HIGHER else min)(known, key=lambda name: known[name])
    score = metrics[metric]
    return Comparison(metric, math.nan if score is None else score, best, known[best], predicts_one_class(metrics))


def comparison_fields(comparison: Comparison | None) -> dict[str, Any]:
    """Return the fields `beats_baseline` and `best_baseline` of a result; their values are None if there was no comparison."""
    if comparison is None:
        return {"beats_baseline": None, "best_baseline": None}
    best = {"name": comparison.baseline, "metric": comparison.metric, "value": comparison.value, "score": comparison.score}
    return {"beats_baseline": int(comparison.beats), "best_baseline": best}


def predicts_one_class(metrics: Metrics) -> bool:
    """Whether a classifier predicted the same class for all rows, judged by its metrics.

    If so, the Matthews correlation is 0, and with accuracy a and k classes, the macro F1 is 2a / (1 + a) / k: the predicted class has
    recall 1 and precision a, the others have an F1 of 0. With few rows, predictions of several classes may give such metrics by chance.
    """
    accuracy, f1_macro = metrics.get("accuracy"), metrics.get("f1_macro")
    if not accuracy or not f1_macro or metrics.get("matthews") != 0 or metrics.get("majority") == 1:  # 1: all targets are one class
        return False
    classes = 2 * accuracy / (1 + accuracy) / f1_macro
    if round(classes) <= 1 or not math.isclose(classes, round(classes), rel_tol=1e-9):
        return False
    others, majority = 1 - accuracy, metrics.get("majority") or accuracy  # fractions of the rows
    is_majority = math.isclose(accuracy, majority)
    return is_majority or others / (round(classes) - 1) - 1e-9 <= majority <= others + 1e-9


def advice(before: Metrics, after: Metrics, losses: Mapping[int, float | None], lr: float, epochs: float | None) -> str:
    """Return what to try after a run that does not beat its baselines, as a sentence for the user.

    `before`, `after`: the metrics of the initial model and of the best checkpoint. `losses`: the validation loss by evaluated step.
    """
    known = {step: loss for step, loss in sorted(losses.items()) if loss is not None and math.isfinite(loss)}
    longer = f"training.epochs={2 * epochs:g}" if epochs else "twice the steps"
    lower = f"try a lower rate, optimizer.lr={lr / 3:.2g}"
    if not known:
        return lower[0].upper() + lower[1:]
    least, last = min(known, key=lambda step: known[step]), max(known)
    first = before.get("loss") or known[min(known)]
    scores = {name for name in (before.keys() & after.keys()) - {"loss"} if name in HIGHER}
    if scores and all(before[name] == after[name] for name in scores):
        higher = f"try a higher rate, optimizer.lr={10 * lr:.2g}"
        return f"Its answers are those of before the first step (loss {first:.4g} to {known[least]:.4g}): {higher}"
    if known[least] > (1 + _HARDLY) * first:
        return f"Its validation loss rose ({first:.4g} to {known[least]:.4g}): {lower}"
    if known[least] > (1 - _HARDLY) * first:
        what = "hardly fell" if known[least] < first else "did not fall"
        return f"Its validation loss {what} ({first:.4g} to {known[least]:.4g}): {lower}, or {longer}"
    if least == last:
        return f"Its validation loss was still falling at the end ({known[last]:.4g}): try {longer}"
    return (
        f"Its validation loss was lowest in step {least:,} ({known[least]:.4g}) and {known[last]:.4g} at the end: more rows help most; "
        f"or {lower}"
    )

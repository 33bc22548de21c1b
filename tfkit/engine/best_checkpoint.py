"""The best checkpoint of a run, by the metric of its recipe: recorded next to the checkpoints, so that it is not deleted as an old one."""

import math
from collections.abc import Mapping
from typing import Any

from tfkit.engine.training_data import RunContext
from tfkit.engine.training_log import TrainingLog
from tfkit.recipe.schema.best_metric import HIGHER
from tfkit.run.checkpoints import best_checkpoint, checkpoints, read_best, record_best, step_of


class BestCheckpoint:
    """The best checkpoint of a run so far, and its improvement on the model before the first step."""

    def __init__(self, context: RunContext, log: TrainingLog):
        self.context, self.log, self.root = context, log, context.folder.checkpoints
        self.metric = context.recipe.evaluation.metric or context.recipe.objective.trained_for.best_by

    def score(self, metrics: Mapping[str, float | None]) -> float:
        """Return the score by which checkpoints are compared; NaN, which is never better, if there is none or it may not be the best."""
        value = metrics.get(self.metric)
        known = {name: number for name, number in metrics.items() if number is not None}
        return value if value is not None and self.context.recipe.objective.may_be_best(known) else math.nan

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the scores of a step's checkpoint. An error of the disk is only a warning."""
        try:
            record_best(self.root, step, self.metric, self.score(metrics), self.metric in HIGHER)
        except OSError as error:
            self.context.listener.warn(
                f"{self.root / f'step-{step:06d}'}: its scores cannot be written there ({error.strerror}); training continues"
            )

    def restore(self) -> None:
        """Record the best checkpoint again if the record or that checkpoint is lost: it must not be deleted as an old one."""
        if best_checkpoint(self.root) is not None:
            return
        complete = {step_of(path) for path in checkpoints(self.root)}
        for step, metrics in sorted(self.log.evaluations.items()):
            if step in complete and not math.isnan(value := self.score(metrics)):
                record_best(self.root, step, self.metric, value, self.metric in HIGHER)
        if best := read_best(self.root) if best_checkpoint(self.root) else None:
            self.context.listener.warn(
                f"{self.root}: no complete checkpoint was recorded as the best; according to the "
                f"evaluations so far it is that of step {best.step}"
            )

    def document(self) -> dict[str, Any] | None:
        """Return the best checkpoint and its score, as in the result of docs/cli.md."""
        path, best = best_checkpoint(self.root), read_best(self.root)
        return {"checkpoint": str(path), "step": best.step, "metric": best.metric, "value": best.value} if path and best else None

    def describe_unsaved(self) -> str | None:
        """Describe an evaluation that was better than that of the best checkpoint, in a step that was not saved; None if there is none."""
        best, sign = self.document(), -1 if self.metric in HIGHER else 1
        if best is None or best["metric"] != self.metric:
            return None
        scores = {step: self.score(metrics) for step, metrics in self.log.evaluations.items()}
        better = {step: sign * score for step, score in scores.items() if sign * score < sign * best["value"]}
        if not better:
            return None
        step = min(better, key=lambda step: better[step])
        return (
            f"{self.context.folder.path}: {self.metric} was best in step {step:,}, {scores[step]:.4g}, but that step was not saved; the "
            f"best checkpoint is of step {best['step']:,}, {best['value']:.4g}. To save each evaluated step, set checkpoint.every to "
            "evaluation.every"
        )

    def improvement(self) -> float | None:
        """Return how much the best checkpoint improves on the model before the first step, by the metric that chose it; None: unknown."""
        before, best = (self.log.before or {}).get(self.metric), self.document()
        if before is None or best is None or best["metric"] != self.metric:
            return None
        return float(best["value"] - before if self.metric in HIGHER else before - best["value"])

    def describe_deterioration(self) -> str:
        """Describe a fine-tuning that made the model worse."""
        before, best = self.log.before or {}, self.document()
        assert best is not None
        first, loss = before.get("loss"), self.log.evaluations.get(best["step"], {}).get("loss")
        learns = first is not None and loss is not None and loss < first  # though the metric does not show it yet
        return (
            f"this run made the model worse: {self.metric} {best['value']:.4g} at its best, in step {best['step']:,}, and "
            f"{before[self.metric]:.4g} before the first step. "
            + (f"But its loss fell to {loss:.4g}: try more steps" if learns else "Try a lower optimizer.lr, fewer steps, or other data")
        )

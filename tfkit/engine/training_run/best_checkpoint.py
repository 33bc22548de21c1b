"""The best checkpoint of a run, by the metric of its recipe. The file best.json records it, so that it is not deleted as an old one."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tfkit.engine.assembly.verdict import Comparison, advice, compare, predicts_one_class
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.evaluation.baselines import Baselines
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.run.best_json import best_checkpoint, read_best, record_best
from tfkit.run.checkpoints import checkpoints, step_of


class BestCheckpoint:
    """The best checkpoint of a run so far, and its improvement on the model before the first step."""

    def __init__(self, run: Run, log: TrainingLog):
        self.run, self.log, self.root = run, log, run.folder.checkpoints
        self.metric = run.recipe.evaluation.metric or run.recipe.objective.trained_for.best_by

    def score(self, metrics: Mapping[str, float | None]) -> float:
        """Return the value by which checkpoints are compared.

        Return NaN, which is never best, if `metrics` lack that value, or their KL divergence exceeds objective.kl_limit.
        """
        value = metrics.get(self.metric)
        known = {name: number for name, number in metrics.items() if number is not None}
        return value if value is not None and self.run.recipe.objective.may_be_best(known) else math.nan

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the checkpoint of a step as the best if its score is the best so far. A disk error causes only a warning."""
        try:
            self._record(step, metrics)
        except OSError as error:
            self.run.listener.warn(
                f"{self.root / f'step-{step:06d}'}: its scores cannot be written there ({error.strerror}); training continues"
            )

    def restore(self) -> None:
        """If the record or the recorded checkpoint is lost, record the best of the complete checkpoints, so that it is not deleted."""
        if best_checkpoint(self.root) is not None:
            return
        complete = {step_of(path) for path in checkpoints(self.root)}
        for step, metrics in sorted(self.log.evaluations.items()):
            if step in complete:
                self._record(step, metrics)
        if best := read_best(self.root) if best_checkpoint(self.root) else None:
            self.run.listener.warn(
                f"{self.root}: no complete checkpoint was recorded as the best; according to the "
                f"evaluations so far it is that of step {best.step}"
            )

    def _record(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Do the work of `record`. Of checkpoints with equal scores, the one with the lower loss is better. Raises OSError."""
        old, loss = read_best(self.root), metrics.get("loss")
        known = self.log.evaluations.get(old.step, {}).get("loss") if old else None
        lower = loss is not None and known is not None and loss < known
        record_best(self.root, step, self.metric, self.score(metrics), self.metric in HIGHER, wins_ties=lower)

    def document(self) -> dict[str, Any] | None:
        """Return the field `best` of a training's result (docs/cli.md); None if there is no best checkpoint."""
        path, best = best_checkpoint(self.root), read_best(self.root)
        return {"checkpoint": str(path), "step": best.step, "metric": best.metric, "value": best.value} if path and best else None

    def describe_unsaved(self) -> str | None:
        """Return a warning if the step with the best score was not saved, so that the best checkpoint has a worse score; else None."""
        best, sign = self.document(), -1 if self.metric in HIGHER else 1
        if best is None or best["metric"] != self.metric:
            return None
        scores = {step: self.score(metrics) for step, metrics in self.log.evaluations.items()}
        better = {step: sign * score for step, score in scores.items() if sign * score < sign * best["value"]}
        if not better:
            return None
        step = min(better, key=lambda step: better[step])
        return (
            f"{self.run.folder.path}: {self.metric} was best in step {step:,}, {scores[step]:.4g}, but that step was not saved; the "
            f"best checkpoint is of step {best['step']:,}, {best['value']:.4g}. To save each evaluated step, set checkpoint.every to "
            "evaluation.every"
        )

    def improvement(self) -> float | None:
        """Return by how much the best checkpoint's score is better than the score before the first step; None if one of them is unknown."""
        before, best = (self.log.before or {}).get(self.metric), self.document()
        if before is None or best is None or best["metric"] != self.metric:
            return None
        return float(best["value"] - before if self.metric in HIGHER else before - best["value"])

    def scores(self) -> dict[str, float | None]:
        """Return all metrics of the best checkpoint; empty if there is none."""
        best = self.document()
        return {} if best is None else {**self.log.evaluations.get(best["step"], {}), best["metric"]: best["value"]}

    def comparison(self, baselines: Baselines) -> Comparison | None:
        """Compare the best checkpoint with the baselines; None if there is no best checkpoint, or no baseline."""
        return compare(baselines, self.scores(), self.metric)

    def warnings(self, baselines: Baselines, *, new_head: bool) -> Iterator[str]:
        """Yield warnings about a poor result, with what to try. `new_head`: the head had random weights before the first step."""
        if predicts_one_class(self.scores()):
            yield "the best checkpoint predicts the same class for every validation row: it has not learned to distinguish the classes"
        comparison = self.comparison(baselines)
        if comparison is not None and not (comparison.beats or comparison.is_perfect):
            losses = {step: metrics.get("loss") for step, metrics in self.log.evaluations.items()}
            optimizer, training = self.run.recipe.optimizer, self.run.recipe.training
            remedy = advice(self.log.before or {}, self.scores(), losses, optimizer.lr, training.epochs)
            yield f"this run does not beat its best baseline. {remedy}"
        if not new_head and (gain := self.improvement()) is not None and gain < 0:
            yield self._describe_deterioration()
        if unsaved := self.describe_unsaved():
            yield unsaved
        if self.log.evaluations and self.document() is None:
            yield self._describe_lack()

    def _describe_lack(self) -> str:
        """Return a warning that no checkpoint is the best one, with the reason."""
        scores = [metrics.get(self.metric) for metrics in self.log.evaluations.values()]
        if any(score is not None and math.isfinite(score) for score in scores):
            why = "each step that was saved exceeds objective.kl_limit. Raise that or objective.beta, or lower optimizer.lr"
        else:
            why = f"{self.metric} is not a number in any evaluation"
        return f"{self.run.folder.path}: no checkpoint is the best one, and commands take the newest: {why}"

    def _describe_deterioration(self) -> str:
        """Return a warning that the run made the model worse, with the scores and what to try."""
        before, best = self.log.before or {}, self.document()
        assert best is not None
        first, loss = before.get("loss"), self.log.evaluations.get(best["step"], {}).get("loss")
        learns = first is not None and loss is not None and loss < first  # even if the metric is not better yet
        return (
            f"this run made the model worse: {self.metric} {best['value']:.4g} at its best, in step {best['step']:,}, and "
            f"{before[self.metric]:.4g} before the first step. "
            + (f"But its loss fell to {loss:.4g}: try more steps" if learns else "Try a lower optimizer.lr, fewer steps, or other data")
        )

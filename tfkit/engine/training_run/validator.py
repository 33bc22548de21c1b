"""The evaluations during a run: scores of the validation sets, samples of generated text, and early stopping."""

import math
from collections.abc import Iterable

from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.validation import SetScores
from tfkit.engine.training_run.checkpointing import Checkpointer
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.errors import Stopped, argument
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.training.loop import Progress


class Validator:
    """Evaluates the current weights (with ema_decay, their moving average). Evaluations that metrics.jsonl already has are not repeated."""

    def __init__(self, run: Run, components: Components, log: TrainingLog, checkpointer: Checkpointer):
        self.run, self.data, self.components, self.log, self.checkpointer = run, run.data, components, log, checkpointer
        self.model = components.stepper.model
        self.prompts = run.recipe.generation.prompts

    def evaluate(self, progress: Progress) -> None:
        """Score the validation sets and generate the samples that metrics.jsonl lacks. Raises Stopped."""
        self.run.meter.phase("evaluate")
        if self.data.validation and progress.step not in self.log.evaluations:
            self._record_scores(progress.step, self._score("during the evaluation"))
        if self.prompts and progress.step not in self.log.sampled:
            self._write_samples(progress.step)
        self.run.meter.phase("train", progress.step)  # a kill from here on loses no evaluation: its scores are recorded

    def score_before(self) -> None:
        """Score the initial model on the validation sets, so that the result can say whether the run improved it. Raises Stopped."""
        if self.data.validation and self.log.before is None:
            self.run.meter.phase("evaluate")
            moment = f"in the evaluation before the first step: no step was taken yet, and {argument('resume', True)} starts with it"
            self.log.scores_before(self._score(moment).metrics)

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl has the scores and the samples of this step, as far as the recipe asks for them."""
        scored = step in self.log.evaluations or not self.data.validation
        return scored and (step in self.log.sampled or not self.prompts)

    def should_stop_early(self) -> bool:
        """Whether none of the last training.patience evaluations has a better score than the best one before them."""
        patience = self.run.recipe.training.patience
        if patience is None:
            return False
        metric = self.checkpointer.best.metric
        values = [self.checkpointer.best.score(metrics) for _, metrics in sorted(self.log.evaluations.items())]
        return since_best(values, metric in HIGHER) >= patience

    def report_early_stop(self, step: int) -> None:
        """Report that the run ends early with this step, if the step was evaluated and `should_stop_early` returns True."""
        if step in self.log.evaluations and self.should_stop_early() and step < self.components.plan.steps:
            metric, patience = self.checkpointer.best.metric, self.run.recipe.training.patience
            self.run.listener.say(f"step {step}: no better {metric} in {patience} evaluations, so the run stops here")

    def _score(self, moment: str) -> SetScores:
        scores = self.checkpointer.work.scores()
        if scores is None:
            raise Stopped(f"stopped {moment}")
        return scores

    def _record_scores(self, step: int, scores: SetScores) -> None:
        """Record the scores, in metrics.jsonl last: if a kill prevents that, the resumed run evaluates again and completes all records."""
        metrics = self.log.evaluations[step] = scores.metrics
        self.checkpointer.record_scores(step, metrics)
        self.log.scores(step, metrics, scores.confusion)
        metric, listener = self.checkpointer.best.metric, self.run.listener
        if metric not in metrics:
            listener.warn(f"step {step}: the evaluation has no {metric}, so this cannot be the best checkpoint")
        self.report_early_stop(step)

    def _write_samples(self, step: int) -> None:
        completions = self.checkpointer.work.completions()
        if completions is None:
            raise Stopped("stopped while the model was writing")
        _, rendered = self.data.objective.prompts(self.prompts)
        pairs = [{"prompt": prompt, "completion": one.text} for prompt, one in zip(self.prompts, completions, strict=True)]
        self.log.samples(step, pairs, continues=not rendered and self.model.encoder is None)


def since_best(values: Iterable[float | None], higher_is_better: bool) -> int:
    """Return the number of values since the best one. A value equal to the best is not better, nor are None, NaN and infinite values."""
    best, since = -math.inf, 0
    for value in values:
        score = math.nan if value is None else value if higher_is_better else -value
        if math.isfinite(score) and score > best:
            best, since = score, 0
        else:
            since += 1
    return since

"""The hooks of the training loop: each calls the part of the run that does the work, such as the log, the checkpointer or the budget.

The evaluations during a run are here, too: scores of the validation sets, samples of generated text, and early stopping.
"""

import math
import shlex
from collections.abc import Iterable
from functools import cached_property

from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.loaders import whole_loader
from tfkit.engine.assembly.training_state import weight_key
from tfkit.engine.assembly.validation import SetScores
from tfkit.engine.training_run.checkpointing import Checkpointer
from tfkit.engine.training_run.contention import Contention
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.errors import Stopped, argument, path_argument
from tfkit.recipe.schema.objective_sections import HIGHER
from tfkit.run.replay_file import write_replay
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loop import Log, Progress
from tfkit.training.replay import describe_step
from tfkit.units import format_energy, format_seconds

MEASURED_STEPS = 3  # number of steps after which the remaining time is estimated, from all of these but the first, which is slower
WORTH_REPORTING_SECONDS = 60.0  # a shorter time of the remaining steps is not reported


class LoopHooks:
    """Implements `training.loop.Hooks` for a run."""

    def __init__(self, run: Run, components: Components, log: TrainingLog, micro_batches: MicroBatches):
        self.run, self.components, self.training_log = run, components, log
        self.should_stop, self.out_of_memory = run.should_end, micro_batches.halve
        self._measured: list[float] = []  # the seconds of the first steps of this attempt

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The object that writes and deletes the run's checkpoints."""
        return Checkpointer(self.run, self.components, self.training_log)

    @cached_property
    def validator(self) -> "Validator":
        """The object that evaluates the model on the held-out rows and writes samples."""
        return Validator(self.run, self.components, self.training_log, self.checkpointer)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        self.checkpointer.save(progress)

    def evaluate(self, progress: Progress) -> None:
        """Evaluate the current weights (with ema_decay, their moving average). Raises Stopped."""
        self.validator.evaluate(progress)

    def evaluated(self, step: int) -> bool:
        """Whether metrics.jsonl has the complete evaluation of `step`."""
        return self.validator.evaluated(step)

    def should_stop_early(self) -> bool:
        """Whether the evaluations so far end the run."""
        return self.validator.should_stop_early()

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Show the step on a terminal's live line, check the budget and contention for the processor, and report the time left once."""
        if self.run.device.type == "cpu":
            self._contention.stepped(seconds)
        if self.run.budget is not None:
            self.run.budget.stepped(self.components.plan.steps - progress.step)
        if self.training_log.terminal:
            self.training_log.show(report.loss, report.lr, report.tokens / seconds, {**report.observed, **report.largest})
        if len(self._measured) < MEASURED_STEPS:
            self._measured.append(seconds)
            if len(self._measured) == MEASURED_STEPS:
                self._report_time(progress.step)

    @cached_property
    def _contention(self) -> Contention:
        return Contention(self.run.folder.path, self.run.listener.warn)

    def _report_time(self, step: int) -> None:
        """Report the time and energy of the remaining steps, estimated from the attempt's second and third step."""
        seconds_per_step, left = sum(self._measured[1:]) / (MEASURED_STEPS - 1), self.components.plan.steps - step
        if (remaining := left * seconds_per_step) < WORTH_REPORTING_SECONDS:
            return
        reading = self.run.meter.reading()
        energy = f" and {format_energy(reading.power_w * remaining / 3600)}" if reading.status == "ok" and reading.power_w else ""
        self.run.listener.say(
            f"step {step}: {seconds_per_step:.2g} s per step, so about {format_seconds(remaining)}{energy} for the {left:,} remaining steps"
        )

    def skipped(self, error: UnhealthyStepError) -> None:
        """Warn that a step is skipped."""
        done, most = self.training_log.progress.skipped, self.components.plan.max_skipped_steps
        self.run.listener.warn(f"{error.summary}; it is skipped, {done} of at most {most}")

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Write the file from which tfkit replay repeats the step, and return a sentence that says so, or why it cannot be written."""
        path = self.run.folder.path
        try:
            latest = self.checkpointer.work.tensors("latest")
            stepper, loader = self.components.stepper, whole_loader(self.components.loader)
            write_replay(path, describe_step(stepper, loader, error, lambda companion, name: latest[weight_key(companion, name)]))
        except OSError as trouble:
            return f"The step could not be recorded for tfkit replay ({trouble.strerror})"
        return f"`tfkit replay {shlex.quote(path_argument(path))}` repeats the step and names the first module that goes wrong"

    def nondeterministic(self, reason: str) -> None:
        """Warn that a resumed run may differ in its last bits on this device; `reason`: PyTorch's message."""
        self.run.listener.warn(
            f"{reason}; it is used nevertheless, and a resumed run may differ from an uninterrupted one in the last bits"
        )

    def log(self, line: Log) -> None:
        """Write a line to the log, update the time in run.json, and warn if the meter has a new problem."""
        self.training_log.line(line)
        self.run.folder.update_time()
        if warning := self.run.meter.warning():
            self.run.listener.warn(warning)


class Validator:
    """Evaluates the current weights (with ema_decay, their moving average). What metrics.jsonl already has is not computed again."""

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
        """Record the scores, in metrics.jsonl last: a run that is killed before that evaluates again, and so completes all records."""
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

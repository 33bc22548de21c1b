"""The training loop: it decides when to log, save and evaluate, and calls hooks that do so."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from tfkit.data import StepLoader
from tfkit.errors import Stopped, UnhealthyError, argument, first_line, is_out_of_memory
from tfkit.objectives.objective import Batch
from tfkit.training.device import set_determinism
from tfkit.training.health import LossHistory, StepReport, UnhealthyStepError
from tfkit.training.schedule import Schedule
from tfkit.training.step import Stepper

Result = TypeVar("Result")


@dataclass
class Progress:
    """The loop's whole state, saved with every checkpoint. Observations: numbers that are only logged, not trained on."""

    step: int = 0  # steps taken or skipped
    tokens: int = 0  # tokens of these steps, without padding
    loss_sum: float = 0.0  # sum of the losses; this and the next four fields cover the steps taken since the last line of the log
    loss_steps: int = 0
    term_sums: dict[str, float] = field(default_factory=dict)  # by term of the loss: the sum of its means in these steps
    observed: dict[str, list[float]] = field(default_factory=dict)  # by observation: its sum, and the number of steps with a finite value
    largest: dict[str, float] = field(default_factory=dict)  # by observation that is logged as a maximum: its largest value
    skipped: int = 0  # the number of skipped steps since the run began: loss or gradient was not finite, or the loss jumped
    history: LossHistory = field(default_factory=LossHistory)
    seconds: float = 0.0  # spent in all steps, including those before a resumption

    def state(self) -> dict[str, Any]:
        """Return the state as nested dictionaries and lists of numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Restore the progress from the result of `state`."""
        return cls(**{**state, "history": LossHistory(**state["history"])})

    def add(self, report: StepReport) -> None:
        """Add a taken step to the next line of the log and to `history`. Observations that are inf or NaN (not valid JSON) are left out."""
        self.loss_sum, self.loss_steps = self.loss_sum + report.loss, self.loss_steps + 1
        for term, loss in report.losses.items():
            self.term_sums[term] = self.term_sums.get(term, 0.0) + loss
        for name, value in report.observed.items():
            if math.isfinite(value):
                total, steps = self.observed.get(name, (0.0, 0))
                self.observed[name] = [total + value, steps + 1]
        for name, value in report.largest.items():
            if math.isfinite(value):
                self.largest[name] = max(value, self.largest.get(name, value))
        self.history.add(report.loss)

    def line(self, report: StepReport, tokens_per_second: float) -> "Log":
        """Return the line of the log that is due after a step, and begin the next line."""
        loss = self.loss_sum / self.loss_steps if self.loss_steps else math.nan
        terms = {term: total / self.loss_steps for term, total in self.term_sums.items()}
        observed = {name: total / steps for name, (total, steps) in self.observed.items()} | self.largest
        self.loss_sum, self.loss_steps, self.term_sums, self.observed, self.largest = 0.0, 0, {}, {}, {}
        return Log(self.step, self.tokens, loss, report.lr, report.grad_norm, self.skipped, tokens_per_second, terms, observed)


@dataclass(frozen=True)
class Plan:
    """The length of a run, and its intervals in steps. With an interval of None, an action is due only after the last step."""

    steps: int
    log_every: int
    evaluate_every: int | None
    save_every: int | None
    max_skipped_steps: int = 0  # the number of unhealthy steps that may be skipped; one more ends the run
    loss_jump_sigmas: float | None = None  # a loss above the running mean by more standard deviations is unhealthy; None: no limit

    def due(self, every: int | None, step: int) -> bool:
        """Whether an action with the interval `every` is due after `step`."""
        return step == self.steps or bool(every and step and step % every == 0)


@dataclass(frozen=True)
class Log:
    """A line of the log. A run that is interrupted and resumed logs the same values to the bit, apart from tokens_per_second."""

    step: int
    tokens: int
    loss: float  # mean over the steps since the last line; NaN if all of them were skipped
    lr: float  # the learning rate in the step `step`; grad_norm is of this step, too
    grad_norm: float
    skipped: int  # the number of steps that were skipped since the run began
    tokens_per_second: float
    terms: dict[str, float] = field(default_factory=dict)  # by term of the loss: its mean over the steps of `loss`
    observed: dict[str, float] = field(default_factory=dict)  # by observation: its mean or maximum over the steps of `loss`


class Hooks(Protocol):
    """The callbacks of the training loop, which tfkit/engine/training_run/loop_hooks.py implements."""

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """Called after each step, taken or skipped; `seconds`: the duration of the step."""

    def skipped(self, error: UnhealthyStepError) -> None:
        """Called before `stepped` if the step is unhealthy and is skipped."""

    def unhealthy(self, error: UnhealthyStepError) -> str:
        """Record the unhealthy step with which the run ends. Return a sentence about this record for the error message."""

    def out_of_memory(self, error: str) -> None:
        """Make the loader's micro-batches smaller. `error`: the reason, for a message. Raises MachineError if that is impossible."""

    def nondeterministic(self, reason: str) -> None:
        """Called if an operation has no deterministic algorithm on this device, so that a resumed run may differ in the last bits."""

    def log(self, line: Log) -> None:
        """Write a line to the log."""

    def save(self, progress: Progress) -> None:
        """Save a checkpoint."""

    def evaluate(self, progress: Progress) -> None:
        """Evaluate the model. May raise Stopped if the run is asked to stop."""

    def evaluated(self, step: int) -> bool:
        """Whether this step's evaluation is already in the log."""

    def should_stop_early(self) -> bool:
        """Whether the run ends early because the metric has not improved in the latest evaluations."""

    def should_stop(self) -> bool:
        """Whether the run is asked to stop. Called between micro-batches, and after each step."""


def train(stepper: Stepper, loader: StepLoader[Batch], schedule: Schedule, plan: Plan, hooks: Hooks, progress: Progress) -> None:
    """Take the remaining steps, or fewer if the evaluations end the run early. Raises Stopped when the run is asked to stop, after saving
    the last whole step, if there is one; UnhealthyError if no more unhealthy steps may be skipped, or a loss term has no target; and
    MachineError if memory runs out and the micro-batches cannot be made smaller.

    A checkpoint that is due after the same step as an evaluation is saved first, so that a failed evaluation does not lose the step. A run
    that is resumed from a checkpoint whose evaluation is missing evaluates first.
    """
    saved_step = progress.step
    seconds, tokens = 0.0, 0  # since the last line of the log
    if progress.step and plan.due(plan.evaluate_every, progress.step) and not hooks.evaluated(progress.step):
        try:
            hooks.evaluate(progress)
        except Stopped:
            raise _stopped(progress.step, plan) from None
    ends_early = bool(progress.step) and hooks.should_stop_early()
    while progress.step < plan.steps and not ends_early:
        start = time.perf_counter()
        step = progress.step + 1
        try:
            report = _take(stepper, loader, schedule.factor(step), plan, hooks, progress)
        except Stopped:  # raised between micro-batches: the unfinished step is dropped
            if saved_step != progress.step:
                hooks.save(progress)
            raise _stopped(progress.step, plan) from None
        step_seconds = time.perf_counter() - start
        progress.step, progress.tokens, progress.seconds = step, progress.tokens + report.tokens, progress.seconds + step_seconds
        seconds, tokens = seconds + step_seconds, tokens + report.tokens
        hooks.stepped(progress, report, step_seconds)
        if plan.due(plan.log_every, step):
            hooks.log(progress.line(report, tokens / seconds))
            seconds, tokens = 0.0, 0
        if plan.due(plan.save_every, step):
            hooks.save(progress)
            saved_step = step
        stopped = False
        if plan.due(plan.evaluate_every, step) and not hooks.should_stop():
            try:
                hooks.evaluate(progress)
            except Stopped:
                stopped = True
        stopped = stopped or hooks.should_stop()
        ends_early = hooks.should_stop_early()
        if (stopped or ends_early) and saved_step != step:
            hooks.save(progress)
        if stopped:
            raise _stopped(step, plan)


def _stopped(step: int, plan: Plan) -> Stopped:
    if not step:
        return Stopped(f"stopped within step 1 of {plan.steps}: no step was taken yet, and {argument('resume', True)} starts with it")
    return Stopped(
        f"stopped after step {step} of {plan.steps}; its checkpoint is saved, and {argument('resume', True)} continues from there"
    )


def try_out(stepper: Stepper, loader: StepLoader[Batch], hooks: Hooks, progress: Progress) -> None:
    """Run the next micro-batch forward and backward without updating weights, making it smaller until it fits into memory.

    If the device has no deterministic algorithm for an operation, `hooks.nondeterministic` is called.
    """
    deterministic_if_possible(
        lambda: stepper.try_out(progress.step + 1, loader.step(progress.step)[0]), stepper, hooks.out_of_memory, hooks.nondeterministic
    )


def _take(stepper: Stepper, loader: StepLoader[Batch], factor: float, plan: Plan, hooks: Hooks, progress: Progress) -> StepReport:
    """Take the next step, or skip it if it is unhealthy. Raises UnhealthyError if no more may be skipped, or a loss term has no target."""

    def attempt() -> StepReport:
        highest = progress.history.highest(plan.loss_jump_sigmas)
        with stepper.preparing():
            batches = loader.step(progress.step)
        return stepper.take(progress.step + 1, batches, factor, highest, hooks.should_stop)

    try:
        report = until_it_fits(attempt, stepper, hooks.out_of_memory)
    except UnhealthyStepError as error:
        if progress.skipped >= plan.max_skipped_steps:
            raise UnhealthyError(f"{error}. {hooks.unhealthy(error)}") from error
        stepper.drop_gradients()
        progress.skipped += 1
        hooks.skipped(error)
        return error.report
    report = replace(report, observed={**report.all_observed, **loader.observed()})
    progress.add(report)
    return report


def deterministic_if_possible(
    attempt: Callable[[], Result], stepper: Stepper, out_of_memory: Callable[[str], None], nondeterministic: Callable[[str], None]
) -> Result:
    """Return the attempt's result, as `until_it_fits` does. If the device has no deterministic algorithm for an operation, other
    algorithms are allowed for the rest of the run, `nondeterministic` is called with PyTorch's message, and the attempt is repeated.
    """
    try:
        return until_it_fits(attempt, stepper, out_of_memory)
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        reason = first_line(error)
    stepper.drop_gradients()
    set_determinism(1)
    nondeterministic(reason)
    return until_it_fits(attempt, stepper, out_of_memory)


def until_it_fits(attempt: Callable[[], Result], stepper: Stepper, out_of_memory: Callable[[str], None]) -> Result:
    """Return the attempt's result. While it runs out of memory, `out_of_memory` makes the micro-batches smaller, and the attempt is
    repeated. Their size does not change the loss of a step, since sums over all micro-batches are divided by counts over all of them.
    """
    while True:
        try:
            return attempt()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        stepper.drop_gradients()  # outside `except`: the error's traceback, which kept the activations alive, is gone
        out_of_memory(reason)

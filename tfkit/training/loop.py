"""The one loop. It knows the objective protocol and when things are due; what is done then is handed in."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tfkit.errors import Stopped
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema import ScheduleSection
from tfkit.training.schedule import lr_factor
from tfkit.training.step import Stepper, StepReport


@dataclass
class Progress:
    """How far a run has come: all that the loop must know to go on, saved with every checkpoint."""

    step: int = 0  # steps taken
    tokens: int = 0  # positions trained on
    loss_sum: float = 0.0  # of the steps since the last line of the log
    loss_steps: int = 0
    seconds: float = 0.0  # spent in steps, over all attempts

    def state(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """When things are due. None: only at the end."""

    steps: int
    log_every: int
    evaluate_every: int | None
    save_every: int | None

    def due(self, every: int | None, step: int) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return step == self.steps or bool(every and step and step % every == 0)


class Loader(Protocol):
    """Batches as a pure function of the step."""

    def step(self, index: int) -> Sequence[Batch]:
        """The micro-batches of step `index`, from 0."""


@dataclass(frozen=True)
class Log:
    """A line of the log. The first five are exact: the same bits in a run that was interrupted and resumed."""

    step: int
    tokens: int
    loss: float  # mean over the steps since the last line
    lr: float
    grad_norm: float
    tokens_per_second: float


class Hooks(Protocol):
    """What the loop asks of the run around it."""

    def stepped(self, progress: Progress, report: StepReport, seconds: float) -> None:
        """A step was taken."""

    def log(self, line: Log) -> None:
        """A line of the log is due."""

    def save(self, progress: Progress) -> None:
        """A checkpoint is due."""

    def evaluate(self, progress: Progress) -> None:
        """An evaluation is due. May raise Stopped when a signal comes."""

    def evaluated(self, step: int) -> bool:
        """Whether this step's evaluation is already in the log."""

    def stop_requested(self) -> int | None:
        """The number of the signal that asks to stop."""


def train(stepper: Stepper, loader: Loader, schedule: ScheduleSection, plan: Plan, hooks: Hooks, progress: Progress) -> None:
    """Take the steps that are left. Raises Stopped after a checkpoint was saved, UnhealthyError before a bad update.

    A checkpoint comes before the evaluation of its step, so that nothing that goes wrong there can cost it; a run resumed from such a
    checkpoint makes up for the evaluation first.
    """
    saved_step = progress.step
    seconds, tokens = 0.0, 0  # since the last line of the log
    if progress.step and plan.due(plan.evaluate_every, progress.step) and not hooks.evaluated(progress.step):
        hooks.evaluate(progress)
    while progress.step < plan.steps:
        start = time.perf_counter()
        step = progress.step + 1
        report = stepper.take(step, loader.step(progress.step), lr_factor(schedule, step, plan.steps))
        took = time.perf_counter() - start
        progress.step, progress.tokens = step, progress.tokens + report.tokens
        progress.loss_sum, progress.loss_steps = progress.loss_sum + report.loss, progress.loss_steps + 1
        progress.seconds += took
        seconds, tokens = seconds + took, tokens + report.tokens
        hooks.stepped(progress, report, took)
        if plan.due(plan.log_every, step):
            loss = progress.loss_sum / progress.loss_steps
            hooks.log(Log(step, progress.tokens, loss, report.lr, report.grad_norm, tokens / seconds))
            progress.loss_sum, progress.loss_steps, seconds, tokens = 0.0, 0, 0.0, 0
        if plan.due(plan.save_every, step):
            hooks.save(progress)
            saved_step = step
        stop: Stopped | None = None
        if plan.due(plan.evaluate_every, step) and hooks.stop_requested() is None:
            try:
                hooks.evaluate(progress)
            except Stopped as asked:
                stop = asked
        number = stop.exit_code - 128 if stop else hooks.stop_requested()
        if number is not None:
            if saved_step != step:
                hooks.save(progress)
            raise Stopped(number, f"stopped after step {step} of {plan.steps}; its checkpoint is saved, and --resume goes on from there")

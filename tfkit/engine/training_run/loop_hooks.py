"""The hooks of the training loop: each calls the part of the run that does the work, such as the log, the checkpointer or the budget."""

import shlex
from functools import cached_property

from tfkit.engine.assembly.components import Components
from tfkit.engine.assembly.loaders import whole_loader
from tfkit.engine.assembly.training_state import weight_key
from tfkit.engine.training_run.checkpointing import Checkpointer
from tfkit.engine.training_run.contention import Contention
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.engine.training_run.validator import Validator
from tfkit.errors import path_argument
from tfkit.run.replay_file import write_replay
from tfkit.training.health import StepReport, UnhealthyStepError
from tfkit.training.loop import Log, Progress
from tfkit.training.replay import describe_step
from tfkit.units import format_energy, format_seconds

MEASURED_STEPS = 3  # the remaining time is estimated after this many steps, from all but the first of them, which is slower
WORTH_REPORTING_SECONDS = 60.0  # if the remaining steps take less, their time is not reported


class LoopHooks:
    """Implements `training.loop.Hooks` for a run."""

    def __init__(self, run: Run, components: Components, log: TrainingLog, micro_batches: MicroBatches):
        self.run, self.components, self.training_log = run, components, log
        self.should_stop, self.out_of_memory = run.should_end, micro_batches.halve
        self._measured: list[float] = []  # the seconds of each of this attempt's first MEASURED_STEPS steps

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The object that writes and deletes the run's checkpoints."""
        return Checkpointer(self.run, self.components, self.training_log)

    @cached_property
    def validator(self) -> Validator:
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
        """Show the step on a terminal's live line, check the budget and the contention for the processor; report the time left, once."""
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
        """Write the file from which tfkit replay repeats the step; return a sentence that names the command, or why there is no file."""
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
        """Write a line to the log, update the time in run.json, and warn if the energy meter has a new problem."""
        self.training_log.line(line)
        self.run.folder.update_time()
        if warning := self.run.meter.warning():
            self.run.listener.warn(warning)

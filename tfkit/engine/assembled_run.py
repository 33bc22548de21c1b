"""An assembled run, ready for its first step or for the step after its checkpoint: it records itself, trains and finishes."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tfkit.carbon import FINISH
from tfkit.engine.base_model import has_new_head
from tfkit.engine.checkpointing import Checkpointer
from tfkit.engine.components import Components
from tfkit.engine.leading import Leader
from tfkit.engine.loop_hooks import LoopHooks
from tfkit.engine.micro_batches import MicroBatches
from tfkit.engine.planning.estimate import Estimate
from tfkit.engine.planning.outcome import actual, predicted, remember_outcome
from tfkit.engine.resuming import warn_of_other_rounding
from tfkit.engine.run_result import step_totals, training_result
from tfkit.engine.training_data import RunContext, TrainingData
from tfkit.engine.training_log import TrainingLog
from tfkit.engine.validator import Validator
from tfkit.errors import BudgetReached, Stopped
from tfkit.evaluation.baselines import Baselines
from tfkit.objectives.context import row_length
from tfkit.training.device import memory_bytes
from tfkit.training.loop import Progress, train, try_out
from tfkit.units import format_baselines


def no_step_yet(resumed_from: Path | None) -> str:
    """Return the message for a run that is stopped before the first step of this attempt."""
    return "no step was taken yet" + (f"; --resume continues the run from {resumed_from.name}" if resumed_from else "")


@dataclass(frozen=True)
class AssembledRun:
    """A run assembled from its recipe, data and model."""

    context: RunContext
    planned: Estimate
    leader: Leader
    data: TrainingData
    components: Components
    resumed_from: Path | None
    progress: Progress
    micro_batches: MicroBatches
    log: TrainingLog
    checkpointer: Checkpointer
    validator: Validator
    hooks: LoopHooks
    baselines: Baselines

    @property
    def totals(self) -> dict[str, float]:
        """Seconds, tokens and FLOPs of all steps, including those of earlier attempts."""
        return step_totals(self.progress, self.log.flops_per_token, self.log.peak_flops)

    def record(self) -> None:
        """Record how this attempt computes, and what it continues from; the result of an earlier attempt is dropped."""
        context, training = self.context, self.context.recipe.training
        arithmetic = {
            "threads": torch.get_num_threads(),
            "ranks": self.leader.peers.ranks.size,
            "device": str(context.device),
            "precision": str(self.components.precision),
            "compile": training.compile,
            "activation_checkpointing": training.activation_checkpointing,
        }
        if self.resumed_from:
            warn_of_other_rounding(context.folder, arithmetic, context.listener)
            context.folder.record_resume(self.resumed_from, self.progress.step)
            self.checkpointer.best.restore()
        planned: dict[str, Any] = {"planned_steps": self.components.plan.steps, "before": self.log.before}
        if not self.resumed_from or context.folder.planned_steps != self.components.plan.steps:
            planned |= {"predicted": predicted(self.planned, context.recipe), "actual": None}
        context.folder.record(**arithmetic, **planned, data=self.data.fingerprints(), parents=self.checkpointer.parents)

    def train(self) -> None:
        """Train to the end. Raises Stopped after saving, UnhealthyError before a bad update."""
        context, components, listener = self.context, self.components, self.context.listener
        if self.resumed_from:
            listener.say(f"resuming from {self.resumed_from.name}")
        if not components.schedule.reaches_peak:
            listener.warn(f"the warm-up is longer than the run of {components.plan.steps} steps: the learning rate never reaches its peak")
        listener.say(self.micro_batches.describe(self.planned, self.progress))
        if baselines := format_baselines(self.baselines, self.checkpointer.best.metric):
            listener.say(f"baselines of the validation rows: {baselines}")
        self._try_out()
        with self.log:
            try:
                if self.checkpointer.kind == "fine-tuning" and not self.progress.step:
                    self.validator.score_before()
                context.meter.phase("train", self.progress.step)
                self._begin_budget()
                hooks = self.leader.begin_steps(components, self.hooks, self.progress, context.stop)
                with self.leader.steps(hooks):
                    train(components.stepper, components.loader, components.schedule, components.plan, hooks, self.progress)
            except Stopped as stopped:
                ending = context.budget.ending(stopped)
                reason = str(ending) if isinstance(ending, BudgetReached) else None
                context.folder.end_attempt("stopped", step=self.progress.step, error=reason)
                raise
            finally:
                context.meter.phase(FINISH)

    def result(self, status: Literal["finished", "stopped"]) -> dict[str, Any]:
        """Return the result of docs/cli.md; the totals must have been recorded."""
        folder, steps, data = self.context.folder, self.components.plan.steps, self.data
        is_new = data.start is not None and has_new_head(data.start, data.config, data.labels)
        length, trial = row_length(self.context.recipe.data.sequence_length, data.config), folder.rate_trial
        facts = {"new_head": is_new, "sequence_length": length, "rate_trial": trial}
        return training_result(status, folder, self.progress, steps, self.log, self.checkpointer, self.baselines, facts)

    def finish(self) -> dict[str, Any]:
        """Write the card of the last checkpoint and the receipt of a finished run; return its result."""
        result = self.result("finished")
        for warning in self.checkpointer.best.warnings(self.baselines):
            self.context.listener.warn(warning)
        folder = self.context.folder
        self.checkpointer.write_card(Path(result["checkpoint"]), self.progress.step, folder.totals)
        if folder.attempt == 1 and not result["stopped_early"]:
            remember_outcome(self.planned, self.context.recipe, folder.totals, self.context.device)
        measured = actual(folder.totals, memory_bytes(self.context.device))
        folder.end_attempt("finished", step=self.progress.step, result=result, actual=measured)
        return result

    # ----------------------------------------------------------------------------------------------------- the parts of train

    def _begin_budget(self) -> None:
        """Start counting steps against the budget, and compare it with what the remaining steps are expected to use. Raises Stopped."""
        steps, planned, budget = self.components.plan.steps, self.planned, self.context.budget
        left = steps - self.progress.step
        likely = {"g": planned.emissions_g.likely, "kwh": planned.energy_kwh.likely, "seconds": planned.seconds.likely}
        fraction = planned.fraction_after_start * left / max(1, steps)  # the start is over, and already counted as used
        budget.begin_steps(left, {name: value * fraction for name, value in likely.items()})
        budget.raise_if_reached(no_step_yet(self.resumed_from))

    def _try_out(self) -> None:
        """Compile the model if asked and, on a GPU, try the largest micro-batch, while a stop can still end this at once.

        With sharded weights, the ranks compile in their first step, and try nothing.
        """
        context, compiles = self.context, self.context.recipe.training.compile
        if context.recipe.parallel.shard > 1 or (not compiles and context.device.type == "cpu"):
            return
        with context.stop.at_once(no_step_yet(self.resumed_from)), warnings.catch_warnings():
            # The compiler traces under anomaly detection, which warns with a traceback if a signal ends it.
            warnings.filterwarnings("ignore", r"Error detected in \w+Backward")
            if compiles:
                context.listener.say("compiling the model")
            try_out(self.components.stepper, self.components.loader, self.hooks, self.progress)

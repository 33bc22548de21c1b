"""An assembled run: its weights, optimizer, loader and hooks, new or restored from its newest undamaged checkpoint.

The methods of `AssembledRun` record this attempt (a start or a resumption of the run) in run.json, take the steps, and finish the run.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tfkit.carbon import FINISH
from tfkit.carbon.footprint import MEASURED
from tfkit.engine.assembly.base_model import has_new_head, pin_models
from tfkit.engine.assembly.components import Components, assemble, first_model
from tfkit.engine.assembly.memory_plan import disk_bytes, trained_numel
from tfkit.engine.assembly.training_rows import training_baselines
from tfkit.engine.assembly.verdict import comparison_fields
from tfkit.engine.request.resuming import require_length, require_same_text, warn_of_other_rounding
from tfkit.engine.request.training_request import RequestRecord
from tfkit.engine.training_run.loop_hooks import LoopHooks
from tfkit.engine.training_run.micro_batches import MicroBatches
from tfkit.engine.training_run.run import Run
from tfkit.engine.training_run.training_log import TrainingLog
from tfkit.errors import BudgetReached, PeerLostError, Stopped, argument
from tfkit.evaluation.baselines import Baselines
from tfkit.objectives.context import row_length
from tfkit.recipe import dump_recipe
from tfkit.recipe.schema.sections import Recipe
from tfkit.run import strict_json
from tfkit.run.checkpoints import newest_good, require_free_space
from tfkit.run.state_json import TrainingState, read_state_json
from tfkit.training.device import compile_model, memory_bytes, prepare_steps
from tfkit.training.loop import Progress, train, try_out
from tfkit.units import format_baselines

if TYPE_CHECKING:
    from tfkit.engine.training_run.coordinator import RankHooks


def no_step_yet(resumed_from: Path | None) -> str:
    """Return the message for a run that is stopped before the first step of this attempt."""
    return "no step was taken yet" + (f"; {argument('resume', True)} continues the run from {resumed_from.name}" if resumed_from else "")


@dataclass(frozen=True)
class AssembledRun:
    """A run that is ready for its next step. `pinned`: its recipe, with the hashes of its base model and companions (such as a teacher)."""

    run: Run
    pinned: Recipe
    components: Components
    resumed_from: Path | None
    micro_batches: MicroBatches
    log: TrainingLog
    hooks: LoopHooks
    baselines: Baselines

    @property
    def progress(self) -> Progress:
        """The steps so far, including those of earlier attempts."""
        return self.components.progress

    @property
    def totals(self) -> dict[str, float]:
        """Seconds, tokens and FLOPs of all steps, including those of earlier attempts.

        `train_flops` follow from the tokens and the architecture (training/flops.py). `hardware_flops_bound`: the FLOPs that the devices of
        all ranks can compute in `train_seconds` at peak speed (a GPU's by its data sheet, else measured); missing if that is unknown.
        """
        seconds, tokens, peak = round(self.progress.seconds, 3), self.progress.tokens, self.log.peak_flops
        totals = {"train_seconds": seconds, "tokens": tokens, "train_flops": tokens * self.log.flops_per_token if tokens else 0.0}
        return totals | ({"hardware_flops_bound": seconds * peak} if peak else {})

    def record(self, given: RequestRecord) -> None:
        """Record this attempt in run.json: device, ranks and precision, the checkpoint that it continues from, the plan, the data, the
        parent models and `given`, the user's request. Write recipe.yaml. If it continues from a checkpoint, an earlier result is deleted.
        """
        run, training = self.run, self.run.recipe.training
        arithmetic = {
            "threads": torch.get_num_threads(),
            "ranks": run.peers.ranks.size,
            "device": str(run.device),
            "precision": str(self.components.stepper.weights.dtype),
            "compile": training.compile,
            "activation_checkpointing": training.activation_checkpointing,
        }
        if self.resumed_from:
            warn_of_other_rounding(run.folder, arithmetic, run.listener)
            run.folder.record_resume(self.resumed_from, self.progress.step)
            self.hooks.checkpointer.best.restore()
        planned: dict[str, Any] = {"planned_steps": self.components.plan.steps, "before": self.log.before}
        if not self.resumed_from or run.folder.recorded.planned_steps != self.components.plan.steps:
            predicted = run.planned and run.planned.predicted(metered=run.recipe.carbon.enabled)
            planned |= {"predicted": predicted, "actual": None}
        data: dict[str, Any] = {"data": run.data.fingerprints(), "held_out": run.data.held_out(), "data_sizes": run.data.sizes()}
        run.folder.record(**arithmetic, **planned, **data, parents=[parent.document() for parent in run.parents])
        run.folder.write_recipe(dump_recipe(self.pinned, run.data.config))  # only now that run.json has no earlier recipe's result
        run.folder.record(given=given.document())

    def train(self) -> None:
        """Take the remaining steps, with their evaluations and saves.

        Raises Stopped (after a save, if steps were taken), PeerLostError, and UnhealthyError (a non-finite number, a loss jump).
        """
        run, components, listener, begun_at = self.run, self.components, self.run.listener, self.progress.step
        if self.resumed_from:
            listener.say(f"resuming from {self.resumed_from.name}")
            self.hooks.validator.report_early_stop(begun_at)
        if (misfit := components.schedule.misfit) is not None:
            listener.warn(misfit)
        listener.say(self.micro_batches.describe(run.planned, self.progress))
        if self.baselines and (baselines := format_baselines(self.baselines, self.hooks.checkpointer.best.metric)):
            listener.say(f"baselines of the validation rows: {baselines}")
        self._try_out()
        with self.log:
            try:
                if run.recipe.model.start is not None and not self.progress.step:
                    self.hooks.validator.score_before()
                run.meter.phase("train", self.progress.step)
                self._begin_budget()
                with self._shared_hooks() as hooks:
                    train(components.stepper, components.loader, components.schedule, components.plan, hooks, self.progress)
            except Stopped as stopped:
                ending = stopped if run.budget is None else run.budget.ending(stopped)
                reason = str(ending) if isinstance(ending, BudgetReached) else None
                run.folder.end_attempt("stopped", step=self.progress.step, error=reason)
                raise
            except PeerLostError:  # if a stop was requested before the first step, the other rank ended by it: a stop, not a loss
                if self.progress.step == begun_at:
                    run.stop.raise_if_requested(no_step_yet(self.resumed_from))
                raise
            finally:
                run.meter.phase(FINISH)

    def result(self, status: Literal["finished", "stopped"]) -> dict[str, Any]:
        """Return the result (docs/cli.md). Its seconds and energy are the totals in run.json, which the caller has brought up to date."""
        folder, progress, data, best = self.run.folder, self.progress, self.run.data, self.hooks.checkpointer.best
        recorded = folder.recorded
        result: dict[str, Any] = {
            "schema_version": 1,
            "run": str(folder.path),
            "checkpoint": str(folder.checkpoints / f"step-{progress.step:06d}"),
            "status": status,
            "steps": progress.step,
            "tokens": progress.tokens,
            "loss": self.log.latest.get("loss"),
            "evaluation": self.log.evaluations.get(progress.step, {}),
            "before": self.log.before,
            "improvement": best.improvement(),
            "baselines": self.baselines,
            **comparison_fields(best.comparison(self.baselines)),
            "new_head": data.start is not None and has_new_head(data.start, data.config, data.labels),
            "sequence_length": row_length(self.run.recipe.data.sequence_length, data.config),
            "rate_trial": recorded.rate_trial,
            "best": best.document(),
            "stopped_early": progress.step < self.components.plan.steps,
            "stopped_by": None,
            "seconds": recorded.totals.seconds,
            "train_seconds": round(progress.seconds, 3),
            "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
            **recorded.totals.document(MEASURED),
            **self.hooks.checkpointer.inherited.fields(),
            "gates": [],  # the verdicts on the comparisons of --fail-if are added later
        }
        document: dict[str, Any] = strict_json.loads(strict_json.dumps(result))  # the same as if read from run.json: infinity becomes null
        return document

    def finish(self) -> dict[str, Any]:
        """Write the model card of the last checkpoint, and record the finished run in run.json; return its result."""
        result = self.result("finished")
        for warning in self.hooks.checkpointer.best.warnings(self.baselines, new_head=result["new_head"]):
            self.run.listener.warn(warning)
        folder, totals = self.run.folder, self.run.folder.recorded.totals
        self.hooks.checkpointer.write_card(Path(result["checkpoint"]), self.progress.step, totals)
        if self.run.planned is not None and folder.attempt == 1 and not result["stopped_early"]:
            self.run.forecaster.remember(self.run, self.run.planned, totals)
        actual = totals.document(("seconds", "energy_kwh", "emissions_g"))  # of all attempts
        actual |= {"memory_bytes": memory_bytes(self.run.device), "flops": totals.train_flops}
        folder.end_attempt("finished", step=self.progress.step, result=result, actual=actual)
        return result

    # ----------------------------------------------------------------------------------------------------- the parts of train

    def _shared_hooks(self) -> "AbstractContextManager[LoopHooks | RankHooks]":
        """Return a context that begins the steps on all ranks, and yields the hooks with which this rank takes them."""
        if self.run.peers.ranks.is_alone:
            return nullcontext(self.hooks)
        from tfkit.engine.training_run.coordinator import steps_of_ranks

        return steps_of_ranks(self.hooks, self.hooks.checkpointer.work, self.progress.step, self.run.stop)

    def _begin_budget(self) -> None:
        """Start counting the steps against the budget, and warn if the remaining steps are expected to exceed it. Raises Stopped."""
        steps, planned, budget = self.components.plan.steps, self.run.planned, self.run.budget
        if budget is None:
            return
        left = steps - self.progress.step
        if planned is not None:
            likely = {"g": planned.emissions_g.likely, "kwh": planned.energy_kwh.likely, "seconds": planned.seconds.likely}
            fraction = planned.fraction_after_start * left / max(1, steps)  # without the start, which the budget has counted
            budget.begin_steps(left, {name: value * fraction for name, value in likely.items()})
        budget.raise_if_reached(no_step_yet(self.resumed_from))

    def _try_out(self) -> None:
        """On a GPU, or with training.compile, compute a micro-batch without taking a step, and make it smaller until it fits into memory.

        With training.compile, this compiles the model. With sharded weights, nothing is computed: the ranks compile in their first step.
        """
        run, compiles = self.run, self.run.recipe.training.compile
        if run.recipe.parallel.shard > 1 or (not compiles and run.device.type == "cpu"):
            return
        with run.stop.at_once(no_step_yet(self.resumed_from)), warnings.catch_warnings():
            # The compiler traces under anomaly detection, which warns with a traceback if a signal ends the tracing.
            warnings.filterwarnings("ignore", r"Error detected in \w+Backward")
            if compiles:
                run.listener.say("compiling the model")
            try_out(self.components.stepper, self.components.loader, self.hooks, self.progress)


def assemble_run(run: Run, *, exact: bool, force: bool) -> AssembledRun:
    """Build the model, optimizer, loader, log and hooks, with the state of the newest undamaged checkpoint, if there is one.

    `exact`: raise ModelError if the newest checkpoint is damaged. `force`: start even if the planned checkpoints do not fit the disk.
    Raises Stopped, ModelError, DataError, UsageError and MachineError.
    """
    recipe, data, folder, listener, peers = run.recipe, run.data, run.folder, run.listener, run.peers
    pinned = pin_models(recipe, data.start, data.objective, folder) if data.start or data.objective.recorded_companions else recipe
    model = first_model(recipe, data, listener, peers)
    prepare_steps(run.device)
    resumed_from = newest_good(folder.checkpoints, listener.warn, exact)
    state = read_state_json(resumed_from) if resumed_from else TrainingState()
    if resumed_from:
        require_same_text(state.data, data.fingerprints())
    parameters, trained = sum(parameter.numel() for parameter in model.parameters()), trained_numel(model)
    if trained < parameters:
        listener.say(f"training {trained:,} of {parameters:,} parameters")
    if not force:
        require_free_space(folder.checkpoints, disk_bytes(recipe, model, data.objective))
    size = state.micro_batch_size or recipe.training.micro_batch_size or 1
    with run.stop.at_once(no_step_yet(resumed_from)):
        if not peers.ranks.is_alone:
            from tfkit.engine.training_run.coordinator import announce_run

            announce_run(run, resumed_from, size)
        components = assemble(recipe, data, model, run.device, size, listener, run.should_end, peers)
        if resumed_from:
            components = components.continued_from(resumed_from)
    run.data = components.data
    if resumed_from:
        require_length(folder.path, components.plan.steps, components.progress.step)
    micro_batches = _micro_batches(run, components, resumed_from, size)
    if recipe.training.compile:
        compile_model(model, by_block=recipe.parallel.shard > 1)
    log = TrainingLog(run, components, state.log)
    for problem in run.ancestry.problems:
        listener.warn(problem)
    hooks = LoopHooks(run, components, log, micro_batches)
    with run.stop.at_once("no step was taken"):
        baselines = training_baselines(recipe) if run.data.validation else {}
    return AssembledRun(run, pinned, components, resumed_from, micro_batches, log, hooks, baselines)


def _micro_batches(run: Run, components: Components, resumed_from: Path | None, size: int) -> MicroBatches:
    """Return the `MicroBatches` of a run, after setting the micro-batch size with which it begins.

    The size is chosen, on a CPU by the free memory, unless the recipe gives it, or the checkpoint has one that suits the ranks.
    """
    micro_batches = MicroBatches(run.recipe, run.device, run.listener, components, restored=resumed_from is not None)
    if run.recipe.training.micro_batch_size is None and not (resumed_from and micro_batches.is_even):
        micro_batches.choose()
        if resumed_from:
            run.listener.say(
                f"micro-batches of {size:,} rows cannot be divided evenly among {run.peers.ranks.size:,} ranks: from now on they have "
                f"{components.loader.micro_batch_size:,}, with the same steps and other dropout masks"
            )
    return micro_batches

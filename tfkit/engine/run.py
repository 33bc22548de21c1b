"""A run: prepared from a recipe, estimated without weights, started in a run folder, and finished with a result."""

import time
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from tfkit.carbon import FINISH, Meter
from tfkit.data.store.folder_cache import BuildingTime
from tfkit.engine.base_model import pinned
from tfkit.engine.baseline_scores import training_baselines
from tfkit.engine.budget import Budget
from tfkit.engine.checkpointing import Checkpointer
from tfkit.engine.companions import pin_companions
from tfkit.engine.components import assemble, first_model, restore, trained_numbers
from tfkit.engine.given import Given
from tfkit.engine.leading import Leader
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.loop_hooks import LoopHooks
from tfkit.engine.micro_batches import MicroBatches, with_batch_of_rows
from tfkit.engine.planning.estimate import Estimate
from tfkit.engine.planning.memory_plan import planned_bytes, require_memory, require_memory_for_blocks, shapes_of
from tfkit.engine.planning.outcome import actual, predicted, remember_outcome
from tfkit.engine.planning.rate_trial_plan import NO_TRIAL, with_rate
from tfkit.engine.planning.run_estimate import estimate_run
from tfkit.engine.rate_trial import try_rates
from tfkit.engine.resuming import require_length, warn_of_other_rounding
from tfkit.engine.run_result import step_totals, training_result
from tfkit.engine.training_data import RunContext, prepare_data
from tfkit.engine.training_log import TrainingLog, saved_log
from tfkit.engine.validator import Validator
from tfkit.errors import BudgetReached, Stopped
from tfkit.families import PRESETS
from tfkit.model.transformer import Transformer
from tfkit.parallel.agreement import ALONE, Peers
from tfkit.recipe import dump_recipe
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.checkpoints import free_space_for, newest_good
from tfkit.run.folder import RunFolder
from tfkit.training.checkpoint import load_training_state
from tfkit.training.device import compile_model, keep_freed_memory, make_deterministic, memory_bytes, peak_flops
from tfkit.training.loop import Progress, train, try_out
from tfkit.units import format_baselines

Kind = Literal["pre-training", "fine-tuning"]


class Run:
    """One attempt of a training: `prepare`, `start`, `finish`."""

    def __init__(self, recipe: Recipe, device: torch.device, listener: Listener, stop: StopRequest, meter: Meter, peers: Peers = ALONE):
        self.recipe, self.device, self.listener, self.stop, self.meter = recipe, device, listener, stop, meter
        self.leader = Leader(peers)
        self.began, self._built = meter.began, BuildingTime.seconds
        self.progress = Progress()
        self.assembled = False  # until then `progress` is not that of earlier attempts

    def prepare(self, *, begun: bool = False, ahead: bool = False) -> Estimate:
        """Read and tokenize the data, train or load the tokenizer, look at the base model; estimate the run. No weights yet.

        `begun`: its first steps are taken, so that its recipe holds as it is. `ahead`: the run is started later, and finds in the cache
        what is built now. Raises MachineError.
        """
        require_memory_for_blocks(self.recipe, self.device)
        self.data = prepare_data(self.recipe, self.listener, self.stop, self.meter)
        model = shapes_of(self.recipe, self.data.config)
        require_memory(self.recipe, model, self.device)
        with self.stop.at_once("nothing was trained yet"):
            if not begun:
                self.recipe = with_batch_of_rows(self.recipe, self.data, self.listener, self.leader.peers.ranks.size)
            self.planned = estimate_run(self.recipe, self.data, model, self.device, lambda: self._seconds_so_far(ahead=ahead))
        return self.planned

    def _seconds_so_far(self, *, ahead: bool) -> float:
        return time.monotonic() - self.began - (BuildingTime.seconds - self._built if ahead else 0.0)

    def start(self, folder: RunFolder, given: Given, kind: Kind, budget: Budget, *, exact: bool = False, force: bool = False) -> None:
        """Train to the end. `exact`: fall back to no older checkpoint; `force`: start although the disk does not hold the checkpoints.

        Raises Stopped after saving, UnhealthyError before a bad update, and ModelError, DataError or UsageError where the folder's run
        cannot go on with this recipe.
        """
        if self.recipe.training.trial_rates is not None:
            self.recipe = self._with_tried_rate(folder, budget)
        resolved = pin_companions(pinned(self.recipe, self.data.start, folder), self.data.objective, folder)
        self.context = RunContext(self.recipe, folder, budget.stop, self.listener, self.meter, self.device, budget)
        self._assemble(first_model(self.recipe, self.data, self.listener), kind, exact=exact, force=force)
        self._record()
        folder.write_recipe(dump_recipe(resolved, self.data.config))  # now: another length than the result's would say it was reached
        folder.record(given=given.document())
        self._train()

    @property
    def totals(self) -> dict[str, float]:
        """Seconds, tokens and FLOPs of all steps, of earlier attempts, too; empty before these are known."""
        return step_totals(self.progress, self.flops_per_token, self.peak) if self.assembled else {}

    def result(self, status: Literal["finished", "stopped"]) -> dict[str, Any]:
        """Return the result of docs/cli.md, once the totals are recorded."""
        return training_result(
            status, self.context.folder, self.progress, self.components.plan.steps, self.log, self.checkpointer, self.baselines
        )

    def finish(self) -> dict[str, Any]:
        """Write the card of the last checkpoint and the receipt of a finished run; return its result."""
        result = self.result("finished")
        if (gain := result["improvement"]) is not None and gain < 0:
            self.listener.warn(self.checkpointer.describe_loss())
        folder = self.context.folder
        self.checkpointer.write_card(Path(result["checkpoint"]), self.progress.step, folder.totals)
        if folder.attempt == 1 and not result["stopped_early"]:
            remember_outcome(self.planned, self.recipe, folder.totals, self.device)
        measured = actual(folder.totals, memory_bytes(self.device))
        folder.end_attempt("finished", step=self.progress.step, result=result, actual=measured)
        return result

    # ----------------------------------------------------------------------------------------------------- the parts of start

    def _with_tried_rate(self, folder: RunFolder, budget: Budget) -> Recipe:
        """Return the recipe with the learning rate of a trial; with its own where none is made. Raises Stopped."""
        plan = self.planned.rate_trial
        if plan is None:
            self.listener.decided(f"no learning rates are tried: {NO_TRIAL}. Taken: {self.recipe.optimizer.lr:g}\n")
            return with_rate(self.recipe, self.recipe.optimizer.lr)
        budget.wait_for_meter()
        self.meter.phase("trial")
        recipe, found = try_rates(self.recipe, self.data, plan, self.device, self.listener, budget.looks_spent)
        self.meter.phase("setup")
        folder.record(rate_trial=found)
        return recipe

    def _assemble(self, model: Transformer, kind: Kind, *, exact: bool, force: bool) -> None:
        """Assemble the components, and restore them from the newest good checkpoint."""
        context, recipe, data, listener = self.context, self.recipe, self.data, self.listener
        make_deterministic(self.device)
        keep_freed_memory()
        self.resumed_from = newest_good(context.folder.checkpoints, listener.warn, exact)
        tensors, state = load_training_state(self.resumed_from) if self.resumed_from else ({}, {})
        saved = saved_log(self.resumed_from, state, data.fingerprints()) if self.resumed_from else None
        parameters, trained = sum(parameter.numel() for parameter in model.parameters()), trained_numbers(model)
        if trained < parameters:
            listener.say(f"training {trained:,} of {parameters:,} parameters")
        if not force:
            free_space_for(context.folder.checkpoints, planned_bytes(recipe, model, data.objective.companions))
        peers = self.leader.peers
        size = state.get("micro_batch_size") or recipe.training.micro_batch_size or 1
        saved_here = f"; the run goes on from {self.resumed_from.name} with --resume" if self.resumed_from else ""
        self.leader.begin(recipe, context.folder.path, self.resumed_from, size, self.device)
        with self.stop.at_once(f"no step was taken yet{saved_here}"):
            self.components = components = assemble(recipe, data, model, self.device, size, listener, context.budget.should_end, peers)
        self.data = data = components.data
        if self.resumed_from:
            self.progress = restore(components, self.resumed_from, tensors, state)
        require_length(context.folder.path, components.plan.steps, self.progress.step)
        self.micro_batches = MicroBatches(recipe, self.device, listener, components, restored=self.resumed_from is not None)
        if recipe.training.micro_batch_size is None and not (self.resumed_from and self.micro_batches.is_even):
            self.micro_batches.choose()
            if self.resumed_from:
                listener.say(
                    f"micro-batches of {size:,} rows cannot be dealt evenly to {peers.ranks.size:,} ranks: they have "
                    f"{components.loader.micro_batch_size:,} from now on, in the same steps, with other draws of dropout"
                )
        if recipe.training.compile:
            compile_model(model, by_block=recipe.parallel.shard > 1)
        self.flops_per_token = self.planned.training_flops / self.planned.tokens
        self.peak = peak_flops(self.device, components.precision)
        self.log = TrainingLog(context, components.plan, self.progress, self.flops_per_token, self.peak, saved)
        preset = recipe.model.preset
        family = data.start.described.family if data.start else PRESETS[preset][0].name if preset else None
        self.checkpointer = Checkpointer(context, data, components, self.log, kind=kind, family=family)
        self.validator = Validator(context, data, components, self.log, self.checkpointer)
        self.hooks = LoopHooks(context, components, self.log, self.checkpointer, self.validator, self.micro_batches, self.checkpointer.work)
        with self.stop.at_once("no step was taken yet"):
            self.baselines = training_baselines(recipe)
        self.assembled = True

    def _record(self) -> None:
        """Record the checkpoint and the machine that the attempt goes on from; the result of an earlier attempt is dropped."""
        context, training = self.context, self.recipe.training
        arithmetic = {
            "threads": torch.get_num_threads(),
            "ranks": self.leader.peers.ranks.size,
            "device": str(self.device),
            "precision": str(self.components.precision),
            "compile": training.compile,
            "activation_checkpointing": training.activation_checkpointing,
        }
        if self.resumed_from:
            warn_of_other_rounding(context.folder, arithmetic, self.listener)
            context.folder.goes_on(self.resumed_from, self.progress.step)
            self.checkpointer.restore_best()
        planned: dict[str, Any] = {"planned_steps": self.components.plan.steps, "before": self.log.before}
        if not self.resumed_from or context.folder.planned_steps != self.components.plan.steps:
            planned |= {"predicted": predicted(self.planned, self.recipe), "actual": None}
        context.folder.record(**arithmetic, **planned, data=self.data.fingerprints(), parents=self.checkpointer.parents)

    def _train(self) -> None:
        components = self.components
        if self.resumed_from:
            self.listener.say(f"resuming from {self.resumed_from.name}")
        if not components.schedule.reaches_its_peak:
            self.listener.warn(
                f"the warm-up is longer than the run of {components.plan.steps} steps: the learning rate never reaches its peak"
            )
        self.listener.say(self.micro_batches.describe(self.planned, self.progress))
        if beside := format_baselines(self.baselines):
            self.listener.say(f"baselines of the validation rows: {beside}")
        self._try_out()
        with self.log:
            try:
                if self.checkpointer.kind == "fine-tuning" and not self.progress.step:
                    self.validator.score_before()
                self.meter.phase("train", self.progress.step)
                self._begin_budget()
                hooks = self.leader.begin_steps(components, self.hooks, self.progress, self.stop)
                with self.leader.steps(hooks):
                    train(components.stepper, components.loader, components.schedule, components.plan, hooks, self.progress)
            except Stopped as stopped:
                ending = self.context.budget.ending(stopped)
                reason = str(ending) if isinstance(ending, BudgetReached) else None
                self.context.folder.end_attempt("stopped", step=self.progress.step, error=reason)
                raise
            finally:
                self.meter.phase(FINISH)

    def _begin_budget(self) -> None:
        """Begin to count the steps against the budget, beside what they are expected to take. Raises Stopped."""
        steps, planned = self.components.plan.steps, self.planned
        left = steps - self.progress.step
        likely = {"g": planned.emissions_g.likely, "kwh": planned.energy_kwh.likely, "seconds": planned.seconds.likely}
        part = planned.part_after_start * left / max(1, steps)  # the start is over, and among what was used
        self.context.budget.begin_steps(left, {name: value * part for name, value in likely.items()})
        saved = f"; the run goes on from {self.resumed_from.name} with --resume" if self.resumed_from else ""
        self.context.budget.raise_if_reached(f"no step was taken yet{saved}")

    def _try_out(self) -> None:
        """Compile what has to be compiled and, on a GPU, try the largest micro-batch, where a stop can end it at once.

        Weights that ranks are to share are whole yet: with them the first step compiles, and nothing is tried.
        """
        if self.recipe.parallel.shard > 1 or (not self.recipe.training.compile and self.device.type == "cpu"):
            return
        saved = f"; the run goes on from {self.resumed_from.name} with --resume" if self.resumed_from else ""
        with self.stop.at_once(f"no step was taken yet{saved}"), warnings.catch_warnings():
            # The compiler traces under anomaly detection, which warns with a traceback where a signal ends it.
            warnings.filterwarnings("ignore", r"Error detected in \w+Backward")
            if self.recipe.training.compile:
                self.listener.say("compiling the model")
            try_out(self.components.stepper, self.components.loader, self.hooks, self.progress)

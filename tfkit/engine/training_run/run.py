"""A run: prepared from a recipe, estimated without weights, started in a run folder, and finished with a result."""

import time
from collections.abc import Collection
from functools import partial
from typing import Any

import torch

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import Meter
from tfkit.data.store.folder_cache import BuildingTime
from tfkit.engine.assembly.base_model import pin_start
from tfkit.engine.assembly.companions import pin_companions
from tfkit.engine.assembly.components import meta_model
from tfkit.engine.assembly.memory_plan import require_memory, require_memory_for_blocks
from tfkit.engine.assembly.training_data import prepare_data
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.request.training_request import RequestRecord, TrainingKind
from tfkit.engine.training_run.assembled_run import AssembledRun, assemble_run, no_step_yet
from tfkit.engine.training_run.budget import Budget, latest_end, limits_of
from tfkit.engine.training_run.coordinator import Coordinator
from tfkit.engine.training_run.estimate import Estimate, Forecaster
from tfkit.engine.training_run.micro_batches import is_short, limit_batch_size
from tfkit.engine.training_run.rate_trial import try_rates
from tfkit.engine.training_run.run_context import RunContext
from tfkit.errors import PeerLostError
from tfkit.parallel.agreement import ALONE, Peers
from tfkit.recipe import dump_recipe
from tfkit.recipe.pretraining_sizes import scaled_to
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.folder import RunFolder
from tfkit.units import format_seconds


class Run:
    """One attempt of a training: `prepare`, `forecast` if something needs it, then `train`. Then `assembled` has its steps and result."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        listener: Listener,
        stop: StopRequest,
        meter: Meter,
        forecaster: Forecaster,
        peers: Peers = ALONE,
        code: CodePermission | None = None,
    ):
        """`code`: which reward functions may be run; None: the run is only planned."""
        self.recipe, self.device, self.listener, self.stop, self.meter, self.code = recipe, device, listener, stop, meter, code
        self.forecaster = forecaster
        self.coordinator = Coordinator(peers)
        self.began, self._built = meter.began, BuildingTime.seconds
        self.planned: Estimate | None = None
        self.assembled: AssembledRun | None = None

    def prepare(self, *, begun: bool = False, ranks: int | None = None, copies: float | None = None) -> None:
        """Read and tokenize the data, train or load the tokenizer, and describe the model: `shapes` has no weights.

        `begun`: the run has taken steps, so its recipe is kept as it is. `ranks`: how many will train it, by default those of this run.
        `copies`: of each model, that this machine must have the memory for; None: as the ranks hold them. Raises MachineError, UsageError.
        """
        copies = self.coordinator.peers.ranks.copies_on_machine(self.recipe.parallel.shard) if copies is None else copies
        require_memory_for_blocks(self.recipe, self.device, copies)
        self.data = prepare_data(self.recipe, self.device, self.listener, self.stop, self.meter, self.code, self.coordinator.peers, copies)
        self.shapes = meta_model(self.recipe, self.data.config)
        require_memory(self.recipe, self.shapes, self.device, copies)
        if not begun:
            with self.stop.at_once("nothing was trained yet"):
                self.recipe = limit_batch_size(self.recipe, self.data, self.listener, ranks or self.coordinator.peers.ranks.size)

    def forecast(self, *, ahead: bool = False) -> Estimate:
        """Estimate the prepared run. `ahead`: it starts later, and finds in the cache what was built now."""
        seconds = partial(self._seconds_so_far, ahead=ahead)
        with self.stop.at_once("nothing was trained yet"):
            self.planned = self.forecaster.estimate(self.recipe, self.data, self.shapes, self.device, seconds)
        return self.planned

    def fit_length(self, minutes: float, named: Collection[str], *, measures: bool = False) -> dict[str, Any]:
        """Give the prepared run the number of steps that takes about so long, and return the fields that this decides.

        What the recipe gives in steps keeps its place in the run, unless it is `named` by the user. `measures`: the time is that of a few
        steps, on the machine as it is now, and not that of the forecast alone, if one process trains.
        """
        recipe, own, how = self.recipe, self.recipe.training.steps, "by a forecast"

        def corrected(planned: Estimate) -> Estimate:
            return planned

        if measures and self.coordinator.peers.ranks.is_alone:
            corrected = self.forecaster.measure(recipe, self.data, self.device, self.listener, self.stop, self.meter)
            how = "by the time of a few steps"
        shorter = corrected(self.forecast())
        steps = shorter.steps

        def with_steps(count: int) -> dict[str, Any]:
            fields = {"training.steps": count, **scaled_to(recipe, own, count, named)}
            self.recipe = recipe.with_fields(fields)
            return fields

        with_steps(2 * steps)
        longer = corrected(self.forecast())
        per_step = (longer.seconds.likely - shorter.seconds.likely) / steps  # the rest, as the start, takes the same time in both
        fitting = steps + (60 * minutes - shorter.seconds.likely) / max(per_step, 1e-6)
        fields = with_steps(max(1, round(fitting)))
        if fitting < 1:
            self.listener.warn(f"{minutes:g} minutes are less than the start and the evaluations take, {how}; give more")
        self.planned = corrected(self.forecast())
        latest = format_seconds(latest_end(minutes))
        self.listener.decided(f"in {minutes:g} minutes, {how}: {self.planned.steps:,} steps; a slower machine is stopped after {latest}\n")
        return fields

    @property
    def needs_forecast(self) -> bool:
        """Whether something reads the forecast of this run: a budget, a trial of rates, a series of intensities, or a person who waits."""
        training, carbon = self.recipe.training, self.recipe.carbon
        is_read = training.trial_rates is not None or carbon.intensity_file is not None or bool(limits_of(carbon))
        return is_read or not is_short(self.recipe, self.data, self.shapes, self.device)

    def _seconds_so_far(self, *, ahead: bool) -> float:
        return time.monotonic() - self.began - (BuildingTime.seconds - self._built if ahead else 0.0)

    def train(
        self, folder: RunFolder, given: RequestRecord, kind: TrainingKind, budget: Budget, *, exact: bool = False, force: bool = False
    ) -> None:
        """Train to the end. `exact`: do not fall back to an older checkpoint; `force`: start even if the checkpoints do not fit the disk.

        Raises Stopped after saving, UnhealthyError before a bad update, and ModelError, DataError or UsageError if the folder's run
        cannot continue with this recipe.
        """
        if self.recipe.training.trial_rates is not None:
            self.recipe = self._with_tried_rate(folder, budget)
        resolved = pin_start(self.recipe, self.data.start, folder) if self.data.start else self.recipe
        if self.data.objective.recorded_companions:
            resolved = pin_companions(resolved, self.data.objective, folder)
        context = RunContext(self.recipe, folder, budget.stop, self.listener, self.meter, self.device, budget, self.forecaster)
        self.assembled = assembled = assemble_run(context, self.data, self.planned, self.coordinator, kind, exact=exact, force=force)
        assembled.record()
        folder.write_recipe(dump_recipe(resolved, self.data.config))  # not before `record`, which drops the result of an earlier length
        folder.record(given=given.document())
        begun_at = assembled.progress.step
        try:
            assembled.train()
        except PeerLostError:  # if all ranks are asked to stop, one may end while another waits for it in the first step
            if assembled.progress.step == begun_at:
                budget.stop.raise_if_requested(no_step_yet(assembled.resumed_from))
            raise

    def _with_tried_rate(self, folder: RunFolder, budget: Budget) -> Recipe:
        """Return the recipe with the learning rate that a trial chose, or its own without a trial. Raises Stopped."""
        assert self.planned is not None  # a trial is planned by the forecast
        plan = self.planned.rate_trial
        if plan is None:
            self.listener.decided(f"no learning rates are tried: {self.planned.no_rate_trial}. Chosen: {self.recipe.optimizer.lr:g}\n")
            return self.recipe.with_rate(self.recipe.optimizer.lr)
        budget.wait_for_meter()
        self.meter.phase("trial")
        recipe, trial = try_rates(self.recipe, self.data, plan, self.device, self.listener, budget.check_and_should_end)
        self.meter.phase("setup")
        if trial is not None:
            folder.record(rate_trial=trial)
        return recipe

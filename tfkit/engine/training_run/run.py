"""A run before its weights exist: its recipe, prepared data and forecast. A plan without a probe needs no more; a training does."""

import time
from collections.abc import Callable
from functools import cached_property

import torch

from tfkit.alignment.user_code import CodePermission
from tfkit.carbon import Meter
from tfkit.data.store.folder_cache import BuildingTime
from tfkit.engine.assembly.base_model import parent_of
from tfkit.engine.assembly.components import meta_model
from tfkit.engine.assembly.memory_plan import require_memory, require_memory_for_blocks
from tfkit.engine.assembly.training_data import TrainingData, prepare_data, tokenizer_folder
from tfkit.engine.listener import Listener, StopRequest
from tfkit.engine.training_run.budget import Budget
from tfkit.engine.training_run.estimate import Estimate, Forecaster
from tfkit.engine.training_run.micro_batches import is_short, limit_batch_size
from tfkit.hub import content_hash, run_id_of
from tfkit.model.transformer import Transformer
from tfkit.parallel.ranks import ALONE, Peers
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.ancestors import FoundAncestors, Parent, find_ancestors
from tfkit.run.folder import RunFolder


class Run:
    """A training that is started or planned: its recipe, its device and, once it is prepared, its data and its forecast.

    All parts of a training share one Run. The Run of a plan has no folder and no budget.
    """

    data: TrainingData
    shapes: Transformer  # the model on the meta device, without weights
    folder: RunFolder
    budget: Budget | None = None

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
        """`code`: which files of reward functions may be run; None: the run is only planned."""
        self.recipe, self.device, self.listener, self.stop, self.meter, self.code = recipe, device, listener, stop, meter, code
        self.forecaster, self.peers = forecaster, peers
        self.began, self._built = meter.began, BuildingTime.seconds
        self.planned: Estimate | None = None

    def prepare(self, *, begun: bool = False, ranks: int | None = None, copies: float | None = None) -> None:
        """Prepare the data, the tokenizer and the model without weights, and reduce a batch size that is above the number of rows.

        `begun`: the run has a checkpoint, so the batch size stays. `ranks`: the number of ranks that will train the run; None:
        as in `peers`. `copies`: how many copies of each model must fit into this machine's memory; None: as many as its ranks hold. Raises
        InsufficientMemoryError if the model does not fit, and UsageError if a reduced batch cannot be divided among the ranks.
        """
        copies = self.peers.ranks.copies_on_machine(self.recipe.parallel.shard) if copies is None else copies
        require_memory_for_blocks(self.recipe, self.device, copies)
        self.data = prepare_data(self.recipe, self.device, self.listener, self.stop, self.meter, self.code, self.peers, copies)
        self.shapes = meta_model(self.recipe, self.data.config)
        require_memory(self.recipe, self.shapes, self.device, copies)
        if not begun:
            with self.stop.at_once("no step was taken"):
                self.recipe = limit_batch_size(self.recipe, self.data, self.listener, ranks or self.peers.ranks.size)

    def forecast(self, *, ahead: bool = False) -> Estimate:
        """Estimate the prepared run. `ahead`: the run will start later, and find in the cache the tokenizer and rows that this command
        has built, so the time for building them is not part of the estimate.
        """

        def seconds() -> float:
            return time.monotonic() - self.began - (BuildingTime.seconds - self._built if ahead else 0.0)

        with self.stop.at_once("no step was taken"):
            self.planned = self.forecaster.estimate(self, seconds)
        return self.planned

    @property
    def needs_forecast(self) -> bool:
        """Whether a budget, a rate trial or a file of carbon intensities needs a forecast, or the run may take more than a minute."""
        training, carbon = self.recipe.training, self.recipe.carbon
        is_read = training.trial_rates is not None or carbon.intensity_file is not None or bool(carbon.limits)
        return is_read or not is_short(self.recipe, self.data, self.shapes, self.device)

    @cached_property
    def parents(self) -> list[Parent]:
        """The base model and companions (such as a teacher) of the run; without a base model, also the run that made the tokenizer."""
        start, tokenizer = self.data.start, self.recipe.tokenizer.path
        parents = [parent_of(companion.parent(), companion.folder) for companion in self.data.objective.recorded_companions]
        if start is not None:
            return [parent_of(start.parent(), start.described.folder), *parents]
        if tokenizer is None or (run_id := run_id_of(folder := tokenizer_folder(tokenizer))) is None:
            return parents  # no tokenizer.path, or one that names no run: a tokenizer alone, or a published model
        entry = {"role": "tokenizer", "path": tokenizer, "run_id": run_id, "sha256": content_hash(folder)}
        return [*parents, parent_of(entry, folder)]

    @cached_property
    def ancestry(self) -> FoundAncestors:
        """The ancestors of the run: its parents, their parents, and so on."""
        return find_ancestors(self.parents, self.folder.run_id) if self.parents else FoundAncestors()

    @property
    def should_end(self) -> Callable[[], bool]:
        """The function that returns whether the steps should end. It does not check the budget: that is done after each step."""
        return self.stop.should_stop if self.budget is None else self.budget.should_end

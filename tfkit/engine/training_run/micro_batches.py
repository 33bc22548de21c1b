"""Limit the batches of a run to the available rows; choose the micro-batch size by the free memory, and halve it when memory runs out."""

from functools import cached_property

import torch

from tfkit.data import Loader
from tfkit.engine.assembly.components import Components, batch_sizes, total_steps
from tfkit.engine.assembly.memory_plan import run_memory, sums_gradients
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.listener import Listener
from tfkit.engine.training_run.estimate import Estimate
from tfkit.errors import InsufficientMemoryError, UsageError
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import tokens_of
from tfkit.objectives.registry import open_rows
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.free_memory import available_bytes, resident_bytes
from tfkit.training.loop import Progress
from tfkit.training.memory import (
    choose_micro_batch,
    companion_bytes_per_row,
    largest_divisor,
    likely_peak,
    logits_bytes,
    planned_row_bytes,
    step_bytes_per_row,
)
from tfkit.units import format_energy, format_epochs, format_number_of, format_seconds

_SHORT_SECONDS = 60.0  # a run that takes at most this long is short: its user needs no forecast
_SLOW_THREAD, _SLOW_GPU = 5e9, 1e12  # FLOPs per second that every processor thread and every GPU of today reaches
_SLOW_STEP_SECONDS = 0.05  # the time of a step or an evaluation, in addition to the time for its FLOPs


def limit_batch_size(recipe: Recipe, data: TrainingData, listener: Listener, ranks: int) -> Recipe:
    """Return the recipe with a batch of at most the available rows. A larger batch would repeat rows in a step, so it is reduced, with a
    warning, to the same size for any number of ranks.

    A batch that grows by training.batch_ramp is not limited, nor is one of sampled responses, since several responses to one prompt are
    different rows. Raises UsageError if the reduced batch cannot be divided evenly among the ranks.
    """
    training = recipe.training
    if (
        data.objective.rollouts is not None
        or training.batch_ramp is not None
        or training.batch_size <= (rows := len(open_rows(recipe, data.objective, data.train, data.config)))
    ):
        return recipe
    micro = training.micro_batch_size and min(training.micro_batch_size, rows)
    batch, whole = rows - rows % (micro or 1), ranks * (micro or 1)
    limited = f"training.batch_size is {training.batch_size:,}, and there are {rows:,} rows to train on: a step has {batch:,} rows"
    if batch % whole:
        beside = f" in micro-batches of {micro:,}" if micro else ""
        remedy = f"give training.batch_size={rows - rows % whole}, or start" if rows >= whole else "start"
        raise UsageError(f"{limited}, which cannot be divided evenly among {ranks:,} ranks{beside}: {remedy} fewer ranks")
    listener.warn(limited)
    return recipe.model_copy(update={"training": training.model_copy(update={"batch_size": batch, "micro_batch_size": micro})})


def is_short(recipe: Recipe, data: TrainingData, model: Transformer, device: torch.device) -> bool:
    """Whether a run takes at most about a minute, even on the slowest machine in use today, so that the user needs no forecast.

    Always False for a run with other models beside its own (such as a teacher), sampled responses or generated samples.
    """
    objective = data.objective
    if objective.rollouts is not None or objective.companions or objective.reference_use != "none" or recipe.generation.prompts:
        return False
    rows = open_rows(recipe, objective, data.train, data.config)
    sizes = batch_sizes(recipe, rows)
    steps = total_steps(recipe, rows, sizes)
    every = recipe.evaluation.every or steps
    evaluations = 2 + steps // (sizes.steps(len(rows)) if every == "epoch" else every)
    held_out = sum(tokens_of(one.stored) for one in data.validation)
    trained, scored = sizes.before(steps) * rows.mean_tokens, evaluations * min(held_out, recipe.evaluation.max_tokens or held_out)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    slow = _SLOW_GPU if device.type == "cuda" else _SLOW_THREAD * torch.get_num_threads()
    seconds = numbers * (6 * trained + 2 * scored) / slow + _SLOW_STEP_SECONDS * (steps + evaluations)
    return seconds <= _SHORT_SECONDS


class MicroBatches:
    """Sets the micro-batch size of a run's loader. `restored`: the optimizer's state was loaded from a checkpoint, so it is in memory."""

    def __init__(self, recipe: Recipe, device: torch.device, listener: Listener, components: Components, *, restored: bool):
        self.recipe, self.device, self.listener = recipe, device, listener
        self.components, self.loader, self.ranks = components, components.loader, components.stepper.peers.ranks
        self.model, self.weights = components.stepper.model, components.stepper.weights
        self.restored = restored

    def choose(self) -> None:
        """Choose the micro-batch size by fixed limits and, on a CPU, by the free memory. If a GPU's memory is full, `halve` is called."""
        on_cpu = self.device.type == "cpu"
        left = available_bytes() if on_cpu else None
        left = None if left is None else left // self.ranks.local_size - self.bytes_to_come(sums=True)
        self.loader.micro_batch_size = choose_micro_batch(
            self.loader.sizes.unit, self.loader.rows.longest, self.row_bytes if on_cpu else 0, left, self.ranks.size
        )

    @property
    def is_even(self) -> bool:
        """Whether the micro-batches of each step can be divided evenly among the ranks."""
        return self.loader.sizes.unit % (self.loader.micro_batch_size * self.ranks.size) == 0

    def halve(self, error: str) -> None:
        """Halve the micro-batches after memory ran out. `error`: the message of the out-of-memory error.

        Raises InsufficientMemoryError if the recipe fixes their size, or a single row does not fit.
        """
        rows = self.loader.micro_batch_size
        if self.recipe.training.micro_batch_size is not None and rows > 1:
            raise InsufficientMemoryError(
                f"out of memory in micro-batches of {rows} rows ({error}): leave training.micro_batch_size out, or lower it"
            )
        if rows == 1:
            raise InsufficientMemoryError(
                f"out of memory with a single row of {self.loader.rows.longest} tokens ({error}): use a smaller model or "
                "data.sequence_length, training.activation_checkpointing=true, or more memory"
            )
        self.loader.micro_batch_size = largest_divisor(self.loader.sizes.unit // self.ranks.size, rows // 2)
        self.listener.warn(
            f"out of memory in micro-batches of {rows} rows: from now on they have {self.loader.micro_batch_size}, with the same steps"
        )

    @cached_property
    def row_bytes(self) -> int:
        """The bytes of activations for the longest row: the first row's, scaled by length, plus an estimate for other models (a teacher).

        With sharded weights, one rank cannot run the model alone, so the bytes are estimated from the model's configuration.
        """
        rows, itemsize, loss_module = self.loader.rows, self.weights.dtype.itemsize, self.components.stepper.loss_module
        if self.weights.sharding is not None:
            checkpointing = self.recipe.training.activation_checkpointing
            return planned_row_bytes(
                self.model.config, loss_module.objective, rows.longest, itemsize, has_fused_dropout=False, checkpointing=checkpointing
            )
        # Scaled, since the first row that is read is the longest one only if rows are grouped by length.
        first = Loader(rows, loss_module.objective.collate, 1, 1).step(0)[0]
        longer = max(1.0, rows.longest / first.tokens)
        row = int(step_bytes_per_row(loss_module, first) * longer)
        return row + companion_bytes_per_row(loss_module.objective, rows.longest, itemsize)

    def bytes_to_come(self, *, sums: bool) -> int:
        """Return the bytes of gradients and optimizer state not yet in memory. `sums`: a step adds gradients of several micro-batches."""
        components, shards = self.components, 1 if self.weights.sharding is None else self.recipe.parallel.shard
        objective, dtype = components.stepper.objective, self.weights.dtype
        memory = run_memory(self.recipe, objective, self.model, dtype, shards=shards, sums_gradients=sums)
        return memory.in_step + (0 if self.restored else memory.to_create)

    def describe(self, planned: Estimate | None, progress: Progress) -> str:
        """Describe the steps with their memory, time and energy, so that the user can stop a run that would need too much.

        The time is extrapolated from the steps so far; before the first step, it is the planned time. `planned`: None for a short run.
        """
        rows, sizes, micro_batch = self.loader.rows, self.loader.sizes, self.loader.micro_batch_size
        steps, epochs = self.components.plan.steps, sizes.before(self.components.plan.steps) / len(rows)
        tokens = round(sizes.full * rows.mean_tokens)
        size = f"{format_number_of(steps, 'step')} of {sizes.full:,} rows, about {tokens:,} tokens each, {format_epochs(epochs)}"
        size += f"; micro-batches of {micro_batch:,} rows, at most {micro_batch * rows.longest:,} tokens{self._memory()}"
        if progress.step:
            size += f"; {steps - progress.step:,} steps remain"
        if planned is None:
            return f"{size}; a minute at most"
        seconds = planned.seconds.likely * (steps - progress.step) / max(1, steps)
        if progress.step:
            seconds = (steps - progress.step) * progress.seconds / progress.step
        size += f"; {'about' if progress.step else 'roughly'} {format_seconds(seconds)}"
        if self.recipe.carbon.enabled:
            energy = 1000 * planned.energy_kwh.likely * seconds / max(planned.seconds.likely, 1e-9)
            size += f", {format_energy(energy)}"
        return size

    def _memory(self) -> str:
        """Describe the memory that this process needs in a step; empty on a GPU, or if the system does not report the memory in use."""
        rows, micro_batch = self.loader.rows, self.loader.micro_batch_size
        resident = resident_bytes() if self.device.type == "cpu" else None
        if resident is None:
            return ""
        sums = sums_gradients(self.components.stepper.objective, self.loader.sizes.full, micro_batch, self.ranks.size)
        logits = logits_bytes(self.model.config, micro_batch * rows.longest, self.weights.dtype.itemsize)
        peak = likely_peak(resident, self.bytes_to_come(sums=sums), micro_batch * self.row_bytes, logits)
        left = available_bytes()
        return f"; about {peak / 1e9:.2g} GB of memory" + ("" if left is None else f", of {(left + resident) / 1e9:.3g} GB")

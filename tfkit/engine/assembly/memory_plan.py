"""Compute the memory and disk that the run of a recipe needs, before any weights exist. training/memory.py counts the bytes of a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfkit.adapters import describe, is_adapter, needs_copy
from tfkit.errors import InsufficientMemoryError, ModelError
from tfkit.hub import find_checkpoint
from tfkit.hub.weights import find_weights
from tfkit.model.transformer import Transformer, on_meta, parameter_shapes
from tfkit.objectives.companion import Companion
from tfkit.objectives.objective import Objective
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.free_memory import available_bytes
from tfkit.training.memory import ModelBytes, model_bytes, trained_bytes


def holds_whole_model(recipe: Recipe) -> bool:
    """Whether checkpoints hold all weights, also frozen ones, so that the run keeps all in fp32. False for an unmerged adapter."""
    adapter = recipe.training.adapter
    return adapter is None or adapter.merge


def trained_numel(model: Transformer) -> int:
    """Return the number of trained weights: the elements of all parameters that are not frozen."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class RunMemory:
    """The bytes that the models of a run need on one rank."""

    own: ModelBytes  # of the run's model
    further: ModelBytes  # of all companions (such as a teacher), and of a copy of the initial model if the run holds one
    loading: int  # of the run's model while its weights are loaded, in fp32; 0 if they are sharded

    @property
    def total(self) -> int:
        """The peak bytes, apart from activations."""
        return max(self.loading, self.own.held + self.own.in_step) + self.further.held + self.further.in_step

    @property
    def in_step(self) -> int:
        """The bytes that each step allocates, apart from activations."""
        return self.own.in_step + self.further.in_step

    @property
    def to_create(self) -> int:
        """The bytes of the optimizer state and of the moving average of the weights, which the first step creates."""
        return self.own.optimizer + self.own.mean + self.further.optimizer


def run_memory(
    recipe: Recipe, objective: Objective, model: Transformer, dtype: torch.dtype, *, shards: int = 1, sums_gradients: bool = True
) -> RunMemory:
    """Return the memory of a run on rank 0, which holds the largest shards if the models are sharded over `shards` ranks.

    `model`: may be on the meta device; frozen parameters have requires_grad=False. `sums_gradients`: a step adds up several gradients.
    """
    parameters = dict(model.named_parameters())
    layout = {"shards": shards, "reshard": recipe.parallel.reshard is not False, "sums_gradients": sums_gradients}
    own = _own_bytes(recipe, parameters, dtype, **layout)
    further = ModelBytes()
    for companion in objective.companions:
        further += _companion_bytes(recipe, objective, companion, dtype, shards, sums_gradients=sums_gradients)
    if objective.reference_use == "throughout" and needs_copy(model):
        # The reference is read between steps only, so its weights are not gathered within a step.
        further += replace(model_bytes(parameters, dtype, None, whole=False, shards=shards), gathered=0)
    return RunMemory(own, further, 0 if shards > 1 else 4 * sum(one.numel() for one in parameters.values()))


def _own_bytes(recipe: Recipe, parameters: Mapping[str, Tensor], dtype: torch.dtype, **layout: Any) -> ModelBytes:
    has_mean, whole = recipe.training.ema_decay is not None, holds_whole_model(recipe)
    return model_bytes(parameters, dtype, recipe.optimizer, has_mean=has_mean, whole=whole, **layout)


def _companion_bytes(
    recipe: Recipe, objective: Objective, companion: Companion, dtype: torch.dtype, shards: int = 1, *, sums_gradients: bool = True
) -> ModelBytes:
    parameters = dict(companion.model.named_parameters())
    if companion.trained:
        return model_bytes(parameters, dtype, recipe.optimizer, shards=shards, sums_gradients=sums_gradients)
    frozen = model_bytes(parameters, dtype, None, whole=False, shards=shards)
    # If responses are sampled, a frozen companion is a reward model, which is read between steps only, so its weights are not gathered.
    return frozen if objective.rollouts is None else replace(frozen, gathered=0)


def sums_gradients(objective: Objective, rows: int, micro_batch_size: int, ranks: int = 1) -> bool:
    """Whether a step of `rows` rows adds up several gradients: those of micro-batches, of ranks, or of mixed-in pretraining text."""
    return ranks > 1 or micro_batch_size < rows or objective.pretraining is not None


def checkpoint_bytes(recipe: Recipe, model: Transformer, objective: Objective) -> int:
    """Return the bytes of a checkpoint on disk, all in fp32: weights, their moving average, optimizer state, and trained companions."""
    adapter, trained = recipe.training.adapter, trained_numel(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    if adapter is not None:
        # The training state also has the LoRA matrices; in the adapter's file, those of fused projections are up to twice as large.
        weights = trained + (weights if adapter.merge else 2 * trained)
    companions = [_companion_bytes(recipe, objective, one, torch.float32).held for one in objective.companions if one.trained]
    own = _own_bytes(recipe, dict(model.named_parameters()), torch.float32)
    return 4 * weights + own.optimizer + own.mean + sum(companions)


def disk_bytes(recipe: Recipe, model: Transformer, objective: Objective) -> int:
    """Return the bytes that a run's checkpoints need on disk: the checkpoint.keep newest, the best, and the one being written."""
    return checkpoint_bytes(recipe, model, objective) * (recipe.checkpoint.keep + 2)


def require_memory(recipe: Recipe, model: Transformer, device: torch.device, copies: float = 1.0) -> None:
    """Raise InsufficientMemoryError if weights, gradients and optimizer state alone do not fit into the free memory of this machine.

    Only a training on the CPU is checked. `copies`: how many copies of the model this machine holds; less than 1 if it holds only shards.
    """
    _require(recipe, dict(model.named_parameters()), device, copies)


def require_memory_for_blocks(recipe: Recipe, device: torch.device, copies: float = 1.0) -> None:
    """Do the check of `require_memory` before the data are read, when the size of the vocabulary is still unknown and counts as 1.

    A model that starts from a checkpoint is not checked.
    """
    if recipe.model.start is None:
        trained = not recipe.training.frozen and recipe.training.adapter is None
        shapes = parameter_shapes(model_config(recipe.model, 1))
        _require(recipe, {name: torch.empty(shape, device="meta", requires_grad=trained) for name, shape in shapes.items()}, device, copies)


def _require(recipe: Recipe, parameters: Mapping[str, Tensor], device: torch.device, copies: float) -> None:
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None:
        return
    numbers = sum(one.numel() for one in parameters.values())
    sizes = _own_bytes(recipe, parameters, pick_precision(recipe.training.precision, device), sums_gradients=False)
    needed = copies * max(4 * numbers, sizes.held + sizes.in_step)
    if needed > left:
        raise InsufficientMemoryError(
            f"the model's {numbers:,} weights need {needed / 1e9:.3g} GB of memory with their gradients and the optimizer's state, and "
            f"{left / 1e9:.3g} GB are free: choose a smaller model, end other programs, or use a larger machine"
        )


def require_memory_for_companions(recipe: Recipe, copies: float = 1.0) -> None:
    """Raise InsufficientMemoryError if the companions alone do not fit into the free memory, and ModelError if one of them is missing.

    Only the headers of their weight files are read. `copies`: how many copies of each companion this machine holds.
    """
    left = available_bytes(swap=True)
    for name, path in recipe.objective.companion_paths.items():
        try:
            parameters = _count_parameters(find_checkpoint(path))
        except ModelError as error:
            raise ModelError(f"objective.{name}: {error}") from None
        needed = int(copies * (trained_bytes(parameters, torch.float32) if recipe.objective.companions[name] else 4 * parameters))
        if left is not None and needed > left:
            raise InsufficientMemoryError(
                f"the {parameters:,} weights of the {name} {path} need {needed / 1e9:.3g} GB of memory, and {left / 1e9:.3g} GB are "
                f"free: choose a smaller {name}, end other programs, or use a larger machine"
            )
        left = None if left is None else left - needed


def _count_parameters(folder: Path) -> int:
    """Return the number of parameters of the model in a folder; for an adapter, including those of its base model."""
    if is_adapter(folder):
        return sum(parameter.numel() for parameter in on_meta(describe(folder).config).parameters())
    return sum(math.prod(weight.stored.shape) for weight in find_weights(folder).values())

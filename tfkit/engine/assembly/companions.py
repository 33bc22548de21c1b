"""The companions of a run, models beside the one that it trains: their memory, precision and device, and their names in checkpoints."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tfkit.adapters import describe, is_adapter
from tfkit.errors import MachineError, ModelError, argument
from tfkit.hub import find_checkpoint
from tfkit.hub.names import on_meta
from tfkit.hub.weights import find_weights
from tfkit.model.config import ModelConfig
from tfkit.objectives.companion import Companion
from tfkit.objectives.objective import Objective
from tfkit.recipe import read_recipe
from tfkit.recipe.schema.sections import Recipe
from tfkit.run.folder import RunFolder
from tfkit.training.device import move
from tfkit.training.memory import available_bytes
from tfkit.training.optimizer import state_numel
from tfkit.training.trained_model import TrainedModel, trained_model

PREFIX = "companions/"  # prefix of their tensors in a training state, which no parameter has
_MARGIN = 1.6  # as in training/memory.py
_TRAINED_BYTES = 16  # a weight in fp32 with its gradient and two moments


def require_memory_for_companions(recipe: Recipe, copies: float = 1.0) -> None:
    """Raise MachineError, with the numbers, if the companions alone do not fit this machine's memory, ModelError if one is missing.

    Only the headers of files are read. `copies`: of each companion on this machine.
    """
    left = available_bytes(swap=True)
    for name, path in recipe.objective.companion_paths.items():
        try:
            parameters = _count_parameters(find_checkpoint(path))
        except ModelError as error:
            raise ModelError(f"objective.{name}: {error}") from None
        needed = int(copies * parameters * (_TRAINED_BYTES if recipe.objective.companions[name] else 4))
        if left is not None and needed > left:
            raise MachineError(
                f"the {parameters:,} weights of the {name} {path} need {needed / 1e9:.3g} GB of memory, and {left / 1e9:.3g} GB are "
                f"free: choose a smaller {name}, end other programs, or use a larger machine"
            )
        left = None if left is None else left - needed


def _count_parameters(folder: Path) -> int:
    """Return the number of parameters of a model folder; for an adapter, that of the whole model."""
    if is_adapter(folder):
        return sum(parameter.numel() for parameter in on_meta(describe(folder).config).parameters())
    return sum(math.prod(weight.stored.shape) for weight in find_weights(folder).values())


def place_companions(recipe: Recipe, objective: Objective, device: torch.device, precision: torch.dtype) -> dict[str, TrainedModel]:
    """Move the companions to the device, frozen ones in `precision`; return the trained ones by name."""
    trained = {}
    for companion in objective.companions:
        model = companion.model
        move(model, device, None if companion.trained else precision)
        if companion.trained:
            trained[companion.name] = trained_model(model, recipe.optimizer, precision, companion.lr)
            for stack in model.stacks:
                stack.activation_checkpointing = recipe.training.activation_checkpointing
    return trained


def weight_key(companion: str, parameter: str) -> str:
    """Return the name of a companion's weight in the training state; the parameter's own name if `companion` is empty."""
    return f"{PREFIX}{companion}/weights/{parameter}" if companion else parameter


def companion_tensors(trained: Mapping[str, TrainedModel]) -> dict[str, Tensor]:
    """Return the weights and the optimizer state of trained companions, for the training state of a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, companion in trained.items():
        tensors |= {weight_key(name, parameter): tensor for parameter, tensor in companion.weights.trained.items()}
        tensors |= {f"{PREFIX}{name}/optimizer/{state}": tensor for state, tensor in companion.optimizer.state().items()}
    return tensors


def companion_parameter(key: str) -> tuple[str, str]:
    """Return the companion, and its parameter, to which a tensor of `companion_tensors` belongs."""
    companion, kind, name = key.removeprefix(PREFIX).split("/", 2)
    return companion, name if kind == "weights" else name.rpartition("/")[0]


def load_companion_tensors(
    trained: Mapping[str, TrainedModel],
    tensors: Mapping[str, Tensor],
    reading: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda weights: weights,
) -> None:
    """Load the result of `companion_tensors` into the companions, the weights through `reading`; other tensors are ignored."""
    for name, companion in trained.items():
        weights, state = (
            {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            for prefix in (f"{PREFIX}{name}/weights/", f"{PREFIX}{name}/optimizer/")
        )
        companion.optimizer.load_state(state)
        companion.weights.load(reading(weights))


def recorded_companions(objective: Objective) -> list[Companion]:
    """Return the companions that a run records: those that its steps use, and those that made its examples."""
    return [*objective.companions, *(objective.feedback.companions if objective.feedback is not None else ())]


def pin_companions(recipe: Recipe, objective: Objective, folder: RunFolder) -> Recipe:
    """Return the recipe with the companions' hashes. Raises ModelError if the run in the folder was started with other companions."""
    companions = recorded_companions(objective)
    if not companions:
        return recipe
    if folder.has_checkpoints and folder.recipe.exists():
        begun = read_recipe(str(folder.recipe)).recipe.objective.pins
        for companion in companions:
            if (before := begun.get(companion.name)) != companion.sha256:
                raise ModelError(
                    f"objective.{companion.name}: {companion.path} has changed since this run was started: the SHA-256 of its weights was "
                    f"{before} and is now {companion.sha256}. Restore it, or start another run with {argument('run')}; to continue a run, "
                    "name one of its checkpoints"
                )
    section = recipe.objective.pinned({companion.name: companion.sha256 for companion in companions})
    return recipe.model_copy(update={"objective": section})


def companion_bytes_per_row(objective: Objective, length: int) -> int:
    """Return the peak bytes of the companions' forward passes for a row, each of one block.

    What autograd keeps of a trained companion is measured with the model's own (training/memory.py).
    """
    models = [companion.model for companion in objective.companions]
    return sum(forward_bytes_per_row(model.config, length, next(model.parameters()).element_size()) for model in models)


def trained_companion_numel(recipe: Recipe, companions: Iterable[Companion]) -> int:
    """Return the fp32 numbers of trained companions: weights and optimizer state in a checkpoint, or gradients and state in memory."""
    trained = [companion.model for companion in companions if companion.trained]
    shapes = [{name: parameter.shape for name, parameter in model.named_parameters()} for model in trained]
    return sum(sum(shape.numel() for shape in by_name.values()) + state_numel(by_name, recipe.optimizer) for by_name in shapes)


def forward_bytes_per_row(config: ModelConfig, length: int, itemsize: int) -> int:
    """Return the bytes of a forward without gradients: the residual stream, and the MLP or, if scores are capped, the attention."""
    width = 4 * config.dim + 3 * config.hidden_dim
    scores = config.num_heads * length * 3 if config.attention.softcap is not None else 0
    return int(_MARGIN * length * itemsize * max(width, 4 * config.dim + scores)) + length**2

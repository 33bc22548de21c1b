"""The further models of a run: their memory, arithmetic and place beside the model, and their names in every checkpoint."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tfkit.adapters import describe, is_adapter
from tfkit.errors import MachineError, ModelError
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
from tfkit.training.optimizer import state_numbers
from tfkit.training.trained_model import TrainedModel, trained_model

PREFIX = "companions/"  # before the names of their tensors in a training state; no parameter is called so
_MARGIN = 1.6  # as memory.py's
_TRAINED_BYTES = 16  # a weight in fp32 with its gradient and two moments


def require_memory_for_companions(recipe: Recipe, copies: float = 1.0) -> None:
    """Raise MachineError, with the numbers, if they alone do not fit the memory of this machine, ModelError if one is not there.

    Only headers are read. `copies`: of each that this machine is to hold.
    """
    left = available_bytes(swap=True)
    for name, path in recipe.objective.companion_paths.items():
        try:
            parameters = _count(find_checkpoint(path))
        except ModelError as error:
            raise ModelError(f"objective.{name}: {error}") from None
        needed = int(copies * parameters * (_TRAINED_BYTES if recipe.objective.companions[name] else 4))
        if left is not None and needed > left:
            raise MachineError(
                f"the {parameters:,} weights of the {name} {path} need {needed / 1e9:.3g} GB of memory, and {left / 1e9:.3g} GB are "
                f"free: choose a smaller {name}, end other programs, or use a larger machine"
            )
        left = None if left is None else left - needed


def _count(folder: Path) -> int:
    """The parameters of a model folder; of an adapter those of the whole model that it is of."""
    if is_adapter(folder):
        return sum(parameter.numel() for parameter in on_meta(describe(folder).config).parameters())
    return sum(math.prod(weight.stored.shape) for weight in find_weights(folder).values())


def place_companions(recipe: Recipe, objective: Objective, device: torch.device, precision: torch.dtype) -> dict[str, TrainedModel]:
    """Put them beside the model of the run, in its arithmetic; return those that are trained, by name."""
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
    """Return the name of a companion's weight in the training state; without a companion that of the parameter."""
    return f"{PREFIX}{companion}/weights/{parameter}" if companion else parameter


def companion_tensors(trained: Mapping[str, TrainedModel]) -> dict[str, Tensor]:
    """Weights and optimizer state of trained companions, for the training state of a checkpoint."""
    found: dict[str, Tensor] = {}
    for name, one in trained.items():
        found |= {weight_key(name, parameter): tensor for parameter, tensor in one.weights.trained.items()}
        found |= {f"{PREFIX}{name}/optimizer/{state}": tensor for state, tensor in one.optimizer.state().items()}
    return found


def companion_parameter(key: str) -> tuple[str, str]:
    """Return the companion and its parameter that a tensor of `companion_tensors` belongs to."""
    companion, kind, name = key.removeprefix(PREFIX).split("/", 2)
    return companion, name if kind == "weights" else name.rpartition("/")[0]


def load_companion_tensors(
    trained: Mapping[str, TrainedModel],
    tensors: Mapping[str, Tensor],
    reading: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda found: found,
) -> None:
    """Put what `companion_tensors` returned back into the companions, their weights through `reading`; other tensors are left alone."""
    for name, one in trained.items():
        weights, state = (
            {key.removeprefix(part): tensor for key, tensor in tensors.items() if key.startswith(part)}
            for part in (f"{PREFIX}{name}/weights/", f"{PREFIX}{name}/optimizer/")
        )
        one.optimizer.load_state(state)
        one.weights.load(reading(weights))


def recorded_companions(objective: Objective) -> list[Companion]:
    """Return the models that a run records: those of its steps, and those that made its examples."""
    return [*objective.companions, *(objective.feedback.companions if objective.feedback is not None else ())]


def pin_companions(recipe: Recipe, objective: Objective, folder: RunFolder) -> Recipe:
    """The recipe with their hashes. Raises ModelError if the run in the folder was begun with others."""
    companions = recorded_companions(objective)
    if not companions:
        return recipe
    if folder.has_checkpoints and folder.recipe.exists():
        begun = read_recipe(str(folder.recipe)).recipe.objective.pins
        for one in companions:
            if begun.get(one.name) != one.sha256:
                raise ModelError(
                    f"objective.{one.name}: {one.path} has changed since this run was started: the SHA-256 of its weights was "
                    f"{begun.get(one.name)} and is now {one.sha256}. Restore it, or start another run with --run; to continue a run, "
                    "name one of its checkpoints"
                )
    section = recipe.objective.pinned({one.name: one.sha256 for one in companions})
    return recipe.model_copy(update={"objective": section})


def companion_bytes_per_row(objective: Objective, length: int) -> int:
    """The memory of their forwards for a row at its fullest, without what is kept for a backward pass."""
    return sum(_forward_bytes(one, length) for one in objective.companions)


def trained_companion_numbers(recipe: Recipe, companions: Iterable[Companion]) -> int:
    """Numbers in fp32 of trained ones: their weights and optimizer state in a checkpoint, or as many of gradients and state in memory."""
    shapes = [{name: parameter.shape for name, parameter in one.model.named_parameters()} for one in companions if one.trained]
    return sum(sum(shape.numel() for shape in one.values()) + state_numbers(one, recipe.optimizer) for one in shapes)


def _forward_bytes(companion: Companion, length: int) -> int:
    """One block's; what autograd keeps of those of a trained one is measured with the model's own (training/memory.py)."""
    return forward_bytes_per_row(companion.model.config, length, next(companion.model.parameters()).element_size())


def forward_bytes_per_row(config: ModelConfig, length: int, itemsize: int) -> int:
    """Of a forward without gradients: within the MLP, or where scores are capped within attention, beside the residual stream."""
    width = 4 * config.dim + 3 * config.hidden_dim
    scores = config.num_heads * length * 3 if config.attention.softcap is not None else 0
    return int(_MARGIN * length * itemsize * max(width, 4 * config.dim + scores)) + length**2

"""The companions of a run, models beside the one that it trains: their precision and device, and their names in checkpoints."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tfkit.objectives.objective import Objective
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import move
from tfkit.training.step import TrainedModel, trained_model

PREFIX = "companions/"  # prefix of their tensors in a training state, which no parameter has


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

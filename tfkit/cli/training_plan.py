"""What a recipe leaves to be worked out before the first step: how long, in what pieces, how much disk."""

import math

import torch

from tfkit.data import Rows
from tfkit.errors import MachineError
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.memory import available_bytes, state_bytes

AUTO_MICRO_BATCH_TOKENS = 16_384


def most_rows(longest: int) -> int:
    """Rows, the longest of which has so many tokens, in a forward of at most 16,384: more is no faster, and takes memory."""
    return max(1, AUTO_MICRO_BATCH_TOKENS // longest)


def total_steps(recipe: Recipe, rows: Rows) -> int:
    """The length in optimizer steps, rounded up."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return math.ceil(training.tokens / (training.batch_size * rows.mean_tokens))
    assert training.epochs is not None
    return math.ceil(training.epochs * len(rows) / training.batch_size)


def moments(recipe: Recipe) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return 2 if recipe.optimizer.kind == "adamw" else 1


def planned_bytes(recipe: Recipe, parameters: int) -> int:
    """Disk for the checkpoints that are kept, one more that is being written, and the best: weights and optimizer state in fp32."""
    return parameters * 4 * (1 + moments(recipe)) * (recipe.checkpoint.keep + 2)


def require_memory(recipe: Recipe, config: ModelConfig, device: torch.device) -> None:
    """Raise MachineError, with the numbers, if weights, gradients and optimizer state alone do not fit the memory of this machine."""
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None:
        return
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Transformer(config).parameters())
    needed = state_bytes(parameters, moments(recipe), pick_precision(recipe.training.precision, device))
    if needed > left:
        raise MachineError(
            f"the model's {parameters:,} weights need {needed / 1e9:.3g} GB of memory with their gradients and the optimizer's state, and "
            f"{left / 1e9:.3g} GB are free: choose a smaller model, end other programs, or use a larger machine"
        )

"""What a recipe leaves to be worked out before the first step: how long, in what pieces, how much disk."""

import math

from tfkit.data import PackedRows
from tfkit.recipe.schema import Recipe

AUTO_MICRO_BATCH_TOKENS = 16_384


def most_rows(context_length: int) -> int:
    """Rows in a forward of at most 16,384 tokens: more is no faster, and takes memory."""
    return max(1, AUTO_MICRO_BATCH_TOKENS // context_length)


def total_steps(recipe: Recipe, rows: PackedRows) -> int:
    """The length in optimizer steps, rounded up."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return math.ceil(training.tokens / (training.batch_size * rows.length))
    assert training.epochs is not None
    return math.ceil(training.epochs * len(rows) / training.batch_size)


def moments(recipe: Recipe) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return 2 if recipe.optimizer.kind == "adamw" else 1


def planned_bytes(recipe: Recipe, parameters: int) -> int:
    """Disk for the checkpoints that are kept, one more that is being written, and the best: weights and optimizer state in fp32."""
    return parameters * 4 * (1 + moments(recipe)) * (recipe.checkpoint.keep + 2)

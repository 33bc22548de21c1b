"""The memory and disk that a run needs, computed before it has weights, and the micro-batch that fits."""

from collections.abc import Sequence

import torch

from tfkit.data import Rows
from tfkit.engine.assembly.companions import trained_companion_numel
from tfkit.engine.assembly.components import choose_trained, holds_whole_model, trained_numel
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.errors import MachineError
from tfkit.hub.names import on_meta, our_shapes
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.starting_points import trained_bytes
from tfkit.training.device import pick_precision
from tfkit.training.memory import activation_bytes_per_row, available_bytes, largest_divisor, rows_that_fit, state_bytes
from tfkit.training.optimizer import state_numel

AUTO_MICRO_BATCH_TOKENS = 16_384
# Activations of a micro-batch on a CPU, margin included. SmolLM2-135M takes 1.2 MB per token: 3,600 tokens.
AUTO_MICRO_BATCH_BYTES = 4 * 2**30
SHORTEST_TEXT = 128
LONGEST_TEXT = 1024  # tokens of a row of text without a recipe: a step of longer rows would take minutes on a CPU


def choose_micro_batch(unit: int, longest: int, row_bytes: int, left: int | None, ranks: int = 1) -> int:
    """Choose the rows of a micro-batch: the largest divisor of a rank's part of `unit` rows that fits into memory; at least 1.

    More than 16,384 tokens or 4 GiB of activations would be no faster. `longest`: tokens of the longest row; `row_bytes`: its activations;
    `left`: bytes of memory for activations, None if unknown.
    """
    useful = min(AUTO_MICRO_BATCH_TOKENS // longest, AUTO_MICRO_BATCH_BYTES // max(1, row_bytes))
    return largest_divisor(max(1, unit // ranks), max(1, min(useful, rows_that_fit(row_bytes, left))))


def text_length(context_length: int, texts: int, step: int, token_bytes: int, parameters: int) -> int:
    """Choose the tokens of a row of text without a recipe: the length of the `texts`, rounded up to a multiple of 64.

    At most the context and a quarter of the tokens of a `step`; halved until a row fits into free memory. `token_bytes`: activations of a
    token.
    """
    length = min(context_length, LONGEST_TEXT, max(SHORTEST_TEXT, min(step // 4, texts + 63) // 64 * 64))
    left = available_bytes()
    while left is not None and length > SHORTEST_TEXT and length * token_bytes > left - trained_bytes(parameters):
        length = max(SHORTEST_TEXT, length // 2)
    return length


def kept_numel(recipe: Recipe, model: Transformer) -> int:
    """Return the count of fp32 numbers that training keeps besides weights and gradients: optimizer state and the mean of the weights."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    mean = 0 if recipe.training.ema_decay is None else trained_numel(model)
    return state_numel(shapes, recipe.optimizer) + mean


def planned_bytes(recipe: Recipe, model: Transformer, companions: Sequence[Companion] = ()) -> int:
    """Return the bytes on disk of the checkpoints in fp32: those that are kept, the one being written, and the best."""
    adapter, trained = recipe.training.adapter, trained_numel(model)
    whole = sum(parameter.numel() for parameter in model.parameters())
    if (
        adapter is not None
    ):  # the training state has the LoRA matrices as trained; in the adapter's file, fused ones are up to twice as large
        whole = trained + (whole if adapter.merge else 2 * trained)
    whole += kept_numel(recipe, model) + trained_companion_numel(recipe, companions)
    return 4 * whole * (recipe.checkpoint.keep + 2)


def longest_row_bytes(data: TrainingData, rows: Rows, itemsize: int, has_fused_dropout: bool) -> int:
    """Return the bytes of the activations of the longest row in all trained models, with a margin."""
    trained = [data.config, *(companion.model.config for companion in data.objective.companions if companion.trained)]
    return sum(activation_bytes_per_row(config, rows.longest, itemsize, has_fused_dropout=has_fused_dropout) for config in trained)


def require_memory_for_blocks(recipe: Recipe, device: torch.device, copies: float = 1.0) -> None:
    """Raise MachineError if the blocks of a randomly initialized model do not fit into memory; its vocabulary is not known yet.

    The check comes before the data are read, and builds one block of each stack on the meta device. `copies`: of the model on this machine,
    less than 1 if it holds only some shards.
    """
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None or recipe.model.start is not None:
        return
    shapes = {name: torch.Size(shape) for name, shape in our_shapes(model_config(recipe.model, 1)).items()}
    parameters = sum(shape.numel() for shape in shapes.values())
    trained, kept = (0, 0) if recipe.training.frozen else (parameters, state_numel(shapes, recipe.optimizer))
    _require(parameters, copies * state_bytes(parameters, trained, kept, torch.float32), left)


def meta_model(recipe: Recipe, config: ModelConfig) -> Transformer:
    """Return the model of a run on the meta device, with its trained parameters chosen. Raises UsageError."""
    model = on_meta(config)
    choose_trained(recipe, model)
    return model


def require_memory(recipe: Recipe, model: Transformer, device: torch.device, copies: float = 1.0) -> None:
    """Raise MachineError, with the numbers, if weights, gradients and optimizer state alone do not fit into the memory of this machine.

    `copies`: as in `require_memory_for_blocks`.
    """
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    precision, whole = pick_precision(recipe.training.precision, device), holds_whole_model(recipe)
    needed = state_bytes(parameters, trained_numel(model), kept_numel(recipe, model), precision, whole=whole)
    _require(parameters, copies * needed, left)


def _require(parameters: int, needed: float, left: int) -> None:
    if needed > left:
        raise MachineError(
            f"the model's {parameters:,} weights need {needed / 1e9:.3g} GB of memory with their gradients and the optimizer's state, and "
            f"{left / 1e9:.3g} GB are free: choose a smaller model, end other programs, or use a larger machine"
        )

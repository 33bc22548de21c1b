"""Estimates of a run before its first step, without weights: FLOPs, memory, disk, time, energy; and the micro-batch that fits."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tfkit.carbon import resolve_place
from tfkit.data import Loader
from tfkit.engine.companions import companion_flops_per_token, companion_state_bytes, trained_companion_numbers
from tfkit.engine.components import batch_sizes, choose_trained, holds_whole_model, in_steps, total_steps, trained_numbers
from tfkit.engine.reference_model import reference_bytes, reference_tokens
from tfkit.engine.training_data import TrainingData
from tfkit.errors import MachineError
from tfkit.hub.names import our_shapes
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import tokens_of
from tfkit.objectives.registry import open_rows
from tfkit.recipe import model_config
from tfkit.recipe.schema.sections import Recipe
from tfkit.recipe.starting_points import trained_bytes
from tfkit.training.device import matrix_speed, pick_precision
from tfkit.training.flops import adapted_flops_per_token, training_flops_per_token
from tfkit.training.memory import activation_bytes_per_token, available_bytes, largest_divisor, likely_peak, rows_that_fit, state_bytes
from tfkit.training.optimizer import state_numbers

AUTO_MICRO_BATCH_TOKENS = 16_384
# Of the activations of a forward on a CPU, margin included. SmolLM2-135M takes 1.2 MB a token: 3,600 tokens.
AUTO_MICRO_BATCH_BYTES = 4 * 2**30
SHORTEST_TEXT = 128
LONGEST_TEXT = 1024  # tokens of a row of text without a recipe: of longer rows a few are a step of minutes on a CPU

_PROCESS_BYTES = 350_000_000  # of Python with its libraries
# Of the speed of a large matrix product: the most that a training can have, what small models on a CPU have, and what overhead leaves.
_EFFICIENCY = {"low": 1.0, "likely": 0.3, "high": 0.05}
_WATTS = {"cpu": {"low": 10.0, "likely": 45.0, "high": 200.0}, "cuda": {"low": 80.0, "likely": 300.0, "high": 700.0}}


@dataclass(frozen=True)
class Range:
    """A number that is not known exactly."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The needs of a run. Seconds, energy and emissions are rough: by this machine's speed at a matrix product, and a table of watts."""

    parameters: int
    trained_parameters: int
    tokens: int  # of all steps
    steps: int
    micro_batch_size: int
    flops: dict[str, float]  # total, and its parts: forward, backward, companions, evaluation; of sampled responses rollouts
    memory_bytes: int  # at the peak, on the device that trains
    disk_bytes: int  # of the checkpoints that are kept
    seconds: Range
    energy_kwh: Range
    emissions_g: Range
    basis: str  # "table": nothing was tried out

    @property
    def training_flops(self) -> float:
        """The FLOPs of the steps alone, companions included."""
        return self.flops["total"] - self.flops["evaluation"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"schema_version": 1, **asdict(self)}


def estimate_run(recipe: Recipe, data: TrainingData, device: torch.device) -> Estimate:
    """Estimate a run from its recipe and its data; of the model only the shapes are made."""
    with torch.device("meta"):
        model = Transformer(data.config)
    choose_trained(recipe, model)
    rows = open_rows(recipe, data.objective, data.train, data.config)
    sizes = batch_sizes(recipe, rows)
    steps = total_steps(recipe, rows, sizes)
    mix = data.objective.pretraining
    beside = mix.ratio * data.config.context_length if mix is not None else 0  # tokens of text for each row
    tokens = round(sizes.before(steps) * (rows.mean_tokens + beside))
    flops = _flops(recipe, data, model, Loader(rows, data.objective.collate, sizes, 1), steps, tokens)
    parameters, trained, kept = sum(one.numel() for one in model.parameters()), trained_numbers(model), kept_numbers(recipe, model)
    precision = pick_precision(recipe.training.precision, device)
    companions = data.objective.companions
    state = state_bytes(parameters, trained, kept, precision, whole=holds_whole_model(recipe))
    state += reference_bytes(data.objective, model, precision)
    state += companion_state_bytes(recipe, data.objective, precision)
    learning = [data.config, *(one.model.config for one in companions if one.trained)]
    row_bytes = sum(map(activation_bytes_per_token, learning)) * rows.longest
    left = available_bytes() if device.type == "cpu" else None
    micro_batch = recipe.training.micro_batch_size or choose_micro_batch(
        sizes.unit, rows.longest, row_bytes, None if left is None else left - state
    )
    logits = micro_batch * rows.longest * data.config.vocab_size * precision.itemsize if data.config.head.kind in ("lm", "masked_lm") else 0
    speed, watts = matrix_speed(device, precision), _WATTS["cuda" if device.type == "cuda" else "cpu"]
    seconds = {name: flops["total"] / (speed * share) for name, share in _EFFICIENCY.items()}
    kwh = {name: seconds[name] * watts[name] / 3.6e6 for name in seconds}
    grams = {name: value * resolve_place(recipe.carbon).intensity_g_per_kwh for name, value in kwh.items()}
    return Estimate(
        parameters,
        trained,
        tokens,
        steps,
        micro_batch,
        flops,
        likely_peak(_PROCESS_BYTES, state, micro_batch * row_bytes, logits),
        planned_bytes(recipe, model, companions),
        Range(**seconds),
        Range(**kwh),
        Range(**grams),
        "table",
    )


def _flops(recipe: Recipe, data: TrainingData, model: Transformer, loader: Loader[Any], steps: int, tokens: int) -> dict[str, float]:
    """FLOPs of the whole run by part; an evaluation is a forward over its tokens. Sampling a token, with a cache, is a forward of it."""
    length = min(round(loader.rows.mean_tokens), data.config.context_length)  # a row may be several sequences
    first = Loader(loader.rows, loader.collate, 1, 1).step(0)
    written = sum(batch.decoder_tokens for batch in first) / sum(batch.tokens for batch in first)
    forward = training_flops_per_token(data.config, length, written) / 3
    backward = 2 * forward + adapted_flops_per_token(dict(model.named_parameters()), data.config, written)
    every = in_steps(recipe.evaluation.every, loader.rows, loader.sizes)
    evaluations = (steps // every if every else 0) + (not every or steps % every > 0)
    held_out = sum(tokens_of(one.stored) for one in data.validation)
    rollouts, readings = data.objective.rollouts, 1
    if rollouts is not None:  # each is sampled, and read by the policy and by its reference
        held_out, readings = held_out + rollouts.section.max_new_tokens * sum(len(one.stored) for one in data.validation), 3
    scored = min(held_out, recipe.evaluation.max_tokens or held_out)
    parts = {
        "forward": tokens * forward,
        "backward": tokens * backward,
        "companions": tokens * companion_flops_per_token(data.objective, length)
        + reference_tokens(data.objective, tokens, sum(tokens_of(stored) for stored, _ in data.train), held_out) * forward,
        "evaluation": evaluations * scored * readings * forward,
    }
    if rollouts is not None:
        parts["rollouts"] = 2 * tokens / rollouts.section.inner_epochs * forward
    return {"total": sum(parts.values()), **parts}


def choose_micro_batch(unit: int, longest: int, row_bytes: int, left: int | None, ranks: int = 1) -> int:
    """Rows in a forward: the largest divisor of `unit` rows, dealt to the ranks, that is worth it and fits the memory; at least 1.

    More than 16,384 tokens or 4 GiB of activations are no faster, and take memory. `longest`: tokens of the longest row; `row_bytes`: its
    activations; `left`: bytes of memory for them, None where nobody knows.
    """
    worth = min(AUTO_MICRO_BATCH_TOKENS // longest, AUTO_MICRO_BATCH_BYTES // max(1, row_bytes))
    return largest_divisor(max(1, unit // ranks), max(1, min(worth, rows_that_fit(row_bytes, left))))


def text_length(context_length: int, texts: int, step: int, token_bytes: int, parameters: int) -> int:
    """Tokens of a row of text where no recipe says so: the length of the `texts`, in whole 64s, at most the context.

    At most a quarter of the tokens of a `step`, and halved until the free memory holds a row. `token_bytes`: activations of a token.
    """
    length = min(context_length, LONGEST_TEXT, max(SHORTEST_TEXT, min(step // 4, texts + 63) // 64 * 64))
    left = available_bytes()
    while left is not None and length > SHORTEST_TEXT and length * token_bytes > left - trained_bytes(parameters):
        length = max(SHORTEST_TEXT, length // 2)
    return length


def kept_numbers(recipe: Recipe, model: Transformer) -> int:
    """Numbers in fp32 that training keeps beside weights and gradients: the optimizer's state, and the mean of the weights."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    mean = 0 if recipe.training.ema_decay is None else trained_numbers(model)
    return state_numbers(shapes, recipe.optimizer) + mean


def planned_bytes(recipe: Recipe, model: Transformer, companions: Sequence[Companion] = ()) -> int:
    """Disk, in fp32, for the checkpoints that are kept, one more that is being written, and the best."""
    adapter, trained = recipe.training.adapter, trained_numbers(model)
    whole = sum(parameter.numel() for parameter in model.parameters())
    if adapter is not None:  # the training state has the updates as they are trained; in the adapter, fused ones are up to twice as large
        whole = trained + (whole if adapter.merge else 2 * trained)
    whole += kept_numbers(recipe, model) + trained_companion_numbers(recipe, companions)
    return 4 * whole * (recipe.checkpoint.keep + 2)


def require_memory_for_blocks(recipe: Recipe, device: torch.device) -> None:
    """Raise MachineError if the blocks of a model from random weights do not fit the memory of this machine; the vocabulary is unknown yet.

    It comes before the data are read, and builds one block of each stack, without memory.
    """
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None or recipe.model.start is not None:
        return
    shapes = {name: torch.Size(shape) for name, shape in our_shapes(model_config(recipe.model, 1)).items()}
    parameters = sum(shape.numel() for shape in shapes.values())
    trained, kept = (0, 0) if recipe.training.frozen else (parameters, state_numbers(shapes, recipe.optimizer))
    _require(parameters, state_bytes(parameters, trained, kept, torch.float32), left)


def require_memory(recipe: Recipe, config: ModelConfig, device: torch.device) -> None:
    """Raise MachineError, with the numbers, if weights, gradients and optimizer state alone do not fit the memory of this machine."""
    left = available_bytes(swap=True) if device.type == "cpu" else None
    if left is None:
        return
    with torch.device("meta"):
        model = Transformer(config)
    choose_trained(recipe, model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    precision, whole = pick_precision(recipe.training.precision, device), holds_whole_model(recipe)
    needed = state_bytes(parameters, trained_numbers(model), kept_numbers(recipe, model), precision, whole=whole)
    _require(parameters, needed, left)


def _require(parameters: int, needed: int, left: int) -> None:
    if needed > left:
        raise MachineError(
            f"the model's {parameters:,} weights need {needed / 1e9:.3g} GB of memory with their gradients and the optimizer's state, and "
            f"{left / 1e9:.3g} GB are free: choose a smaller model, end other programs, or use a larger machine"
        )

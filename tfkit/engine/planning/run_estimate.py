"""The estimate of a run before its first step, without weights."""

import torch

from tfkit.carbon import resolve_place
from tfkit.data import Loader, Rows
from tfkit.engine.companions import companion_state_bytes
from tfkit.engine.components import batch_sizes, choose_trained, holds_whole_model, total_steps, trained_numbers
from tfkit.engine.planning.estimate import Estimate, FullPower, Range
from tfkit.engine.planning.memory_plan import choose_micro_batch, kept_numbers, planned_bytes
from tfkit.engine.planning.processor_power import machine_watts, memory_watts, processor_power
from tfkit.engine.planning.run_flops import run_flops
from tfkit.engine.reference_model import reference_bytes
from tfkit.engine.training_data import TrainingData
from tfkit.model.transformer import Transformer
from tfkit.objectives.registry import open_rows
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import matrix_speed, pick_precision
from tfkit.training.memory import activation_bytes_per_token, available_bytes, likely_peak, state_bytes

PROCESS_BYTES = 350_000_000  # of Python with its libraries
# Of the speed of a large matrix product: the most that a training can have, what small models on a CPU have, and what overhead leaves.
_EFFICIENCY = {"low": 1.0, "likely": 0.3, "high": 0.05}
_GPU_WATTS = {"low": 80.0, "likely": 300.0, "high": 700.0}


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
    precision = pick_precision(recipe.training.precision, device)
    state, row_bytes = state_of(recipe, data, model, precision), bytes_of_row(data, rows)
    left = available_bytes() if device.type == "cpu" else None
    micro_batch = recipe.training.micro_batch_size or choose_micro_batch(
        sizes.unit, rows.longest, row_bytes, None if left is None else left - state
    )
    flops = run_flops(recipe, data, model, Loader(rows, data.objective.collate, sizes, micro_batch), steps)
    logits = micro_batch * rows.longest * data.config.vocab_size * precision.itemsize if data.config.head.kind in ("lm", "masked_lm") else 0
    speed, place = matrix_speed(device, precision), resolve_place(recipe.carbon)
    power = processor_power()
    full, likely = power.watts + memory_watts(), machine_watts(torch.get_num_threads())
    watts = {"low": memory_watts(), "likely": likely, "high": max(full, likely)} if device.type != "cuda" else _GPU_WATTS
    seconds = {name: flops["total"] / (speed * share) for name, share in _EFFICIENCY.items()}
    kwh = {name: seconds[name] * watts[name] / 3.6e6 * recipe.carbon.pue for name in seconds}
    grams = {name: value * place.intensity_g_per_kwh for name, value in kwh.items()}
    hours = seconds["likely"] / 3600
    full_power = FullPower(power.name, power.watts, hours, power.watts * hours / 1000 * place.intensity_g_per_kwh, power.source)
    return Estimate(
        sum(one.numel() for one in model.parameters()),
        trained_numbers(model),
        tokens,
        steps,
        micro_batch,
        flops,
        likely_peak(PROCESS_BYTES, state, micro_batch * row_bytes, logits),
        planned_bytes(recipe, model, data.objective.companions),
        Range(**seconds),
        Range(**kwh),
        Range(**grams),
        "table",
        place.describe(),
        {
            "flops": "matrix products of the batches' real shapes, padding included; attention by its visible pairs",
            "memory_bytes": "by formula, from the model's description",
            "seconds": f"by this machine's speed at a large matrix product, {speed:.3g} FLOP/s, of which a training has a part",
            "energy_kwh": f"{watts['likely']:.3g} W, from {power.watts:.3g} W of the processor at full load ({power.source}) and "
            f"{memory_watts():.3g} W of memory (CodeCarbon's constant)",
        },
        None if device.type == "cuda" else full_power,
    )


def state_of(recipe: Recipe, data: TrainingData, model: Transformer, precision: torch.dtype) -> int:
    """Return the bytes of weights, gradients and optimizer state, of companions and a reference, too."""
    parameters, trained, kept = sum(one.numel() for one in model.parameters()), trained_numbers(model), kept_numbers(recipe, model)
    state = state_bytes(parameters, trained, kept, precision, whole=holds_whole_model(recipe))
    return state + reference_bytes(data.objective, model, precision) + companion_state_bytes(recipe, data.objective, precision)


def bytes_of_row(data: TrainingData, rows: Rows) -> int:
    """Return the bytes of the activations of the longest row, with a margin."""
    learning = [data.config, *(one.model.config for one in data.objective.companions if one.trained)]
    return sum(map(activation_bytes_per_token, learning)) * rows.longest

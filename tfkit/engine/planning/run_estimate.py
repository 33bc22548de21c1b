"""The estimate of a run before its first step, without weights."""

from collections.abc import Callable

import torch

from tfkit.carbon import resolve_place
from tfkit.data import Loader, Rows
from tfkit.engine.components import batch_sizes, holds_whole_model, total_steps, trained_numbers
from tfkit.engine.planning.estimate import Estimate
from tfkit.engine.planning.forecast import forecast
from tfkit.engine.planning.further_models import further_models
from tfkit.engine.planning.memory_plan import choose_micro_batch, kept_numbers, planned_bytes
from tfkit.engine.planning.rate_trial_plan import NoTrial, RateTrialPlan
from tfkit.engine.planning.run_flops import run_flops
from tfkit.engine.training_data import TrainingData
from tfkit.model.transformer import Transformer
from tfkit.objectives.registry import open_rows, row_order
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.memory import activation_bytes_per_row, available_bytes, likely_peak, state_bytes

PROCESS_BYTES = 350_000_000  # of Python with its libraries
_ASSUMPTIONS = {
    "flops": "matrix products of the batches' real shapes, padding included; attention by its visible pairs",
    "memory_bytes": "by formula, from the model's description",
}


def estimate_run(recipe: Recipe, data: TrainingData, model: Transformer, device: torch.device, start: Callable[[], float]) -> Estimate:
    """Estimate a run from its recipe, its data, and the shapes of its model. `start`: the seconds until now."""
    rows = open_rows(recipe, data.objective, data.train, data.config)
    sizes = batch_sizes(recipe, rows)
    steps = total_steps(recipe, rows, sizes)
    mix = data.objective.pretraining
    beside = mix.ratio * row_order(recipe, data.config).length if mix is not None else 0  # tokens of text for each row
    tokens = round(sizes.before(steps) * (rows.mean_tokens + beside))
    precision = pick_precision(recipe.training.precision, device)
    state, row_bytes = state_of(recipe, data, model, precision), bytes_of_row(data, rows, precision.itemsize, device.type == "cuda")
    left = available_bytes() if device.type == "cpu" else None
    micro_batch = recipe.training.micro_batch_size or choose_micro_batch(
        sizes.unit, rows.longest, row_bytes, None if left is None else left - state
    )
    flops, work, trial = run_flops(recipe, data, model, Loader(rows, data.objective.collate, sizes, micro_batch), steps)
    logits = micro_batch * rows.longest * data.config.vocab_size * precision.itemsize if data.config.head.kind in ("lm", "masked_lm") else 0
    found = forecast(recipe, work, flops["total"], device, precision, start())
    return Estimate(
        sum(one.numel() for one in model.parameters()),
        trained_numbers(model),
        tokens,
        steps,
        micro_batch,
        flops,
        likely_peak(PROCESS_BYTES, state, micro_batch * row_bytes, logits),
        planned_bytes(recipe, model, data.objective.companions),
        found.seconds,
        found.energy_kwh,
        found.emissions_g,
        found.basis,
        resolve_place(recipe.carbon).describe(),
        {**_ASSUMPTIONS, **found.assumptions},
        found.full_power,
        found.table_seconds,
        rate_trial=trial if isinstance(trial, RateTrialPlan) else None,
        no_rate_trial=trial.reason if isinstance(trial, NoTrial) else None,
    )


def state_of(recipe: Recipe, data: TrainingData, model: Transformer, precision: torch.dtype) -> int:
    """Return the bytes of weights, gradients and optimizer state, of companions and a reference, too."""
    parameters, trained, kept = sum(one.numel() for one in model.parameters()), trained_numbers(model), kept_numbers(recipe, model)
    state = state_bytes(parameters, trained, kept, precision, whole=holds_whole_model(recipe))
    beside = further_models(recipe, data.objective, model, precision)
    return state + beside.held + beside.at_work


def bytes_of_row(data: TrainingData, rows: Rows, itemsize: int, has_fused_dropout: bool) -> int:
    """Return the bytes of the activations of the longest row, with a margin."""
    learning = [data.config, *(one.model.config for one in data.objective.companions if one.trained)]
    return sum(activation_bytes_per_row(one, rows.longest, itemsize, has_fused_dropout=has_fused_dropout) for one in learning)

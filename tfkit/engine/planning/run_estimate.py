"""Estimate a run before its first step, without weights."""

from collections.abc import Callable

import torch

from tfkit.carbon import resolve_place
from tfkit.data import Loader
from tfkit.engine.assembly.components import batch_sizes, holds_whole_model, total_steps, trained_numel
from tfkit.engine.assembly.memory_plan import choose_micro_batch, kept_numel, longest_row_bytes, planned_bytes
from tfkit.engine.assembly.training_data import TrainingData
from tfkit.engine.planning.forecast import forecast
from tfkit.engine.planning.further_models import further_models
from tfkit.engine.planning.run_flops import run_flops
from tfkit.engine.training_run.estimate import Estimate
from tfkit.engine.training_run.rate_trial_plan import NoTrial, RateTrialPlan
from tfkit.model.transformer import Transformer
from tfkit.objectives.registry import open_rows, row_order
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.memory import available_bytes, likely_peak, state_bytes

PROCESS_BYTES = 350_000_000  # of Python and its libraries
_ASSUMPTIONS = {
    "flops": "matrix products of the real batches, padding included; attention between visible positions",
    "memory_bytes": "by formula, from the model's configuration",
}


def estimate_run(recipe: Recipe, data: TrainingData, model: Transformer, device: torch.device, start: Callable[[], float]) -> Estimate:
    """Estimate a run from its recipe, its data and the shapes of its model. `start` returns the seconds since its command started."""
    rows = open_rows(recipe, data.objective, data.train, data.config)
    sizes = batch_sizes(recipe, rows)
    steps = total_steps(recipe, rows, sizes)
    mix = data.objective.pretraining
    pretraining = mix.ratio * row_order(recipe, data.config).length if mix is not None else 0  # tokens of text mixed in for each row
    tokens = round(sizes.before(steps) * (rows.mean_tokens + pretraining))
    precision = pick_precision(recipe.training.precision, device)
    state, row_bytes = (
        _state_bytes(recipe, data, model, precision),
        longest_row_bytes(data, rows, precision.itemsize, device.type == "cuda"),
    )
    left = available_bytes() if device.type == "cpu" else None
    micro_batch = recipe.training.micro_batch_size or choose_micro_batch(
        sizes.unit, rows.longest, row_bytes, None if left is None else left - state
    )
    flops, work, trial = run_flops(recipe, data, model, Loader(rows, data.objective.collate, sizes, micro_batch), steps)
    logits = micro_batch * rows.longest * data.config.vocab_size * precision.itemsize if data.config.head.kind in ("lm", "masked_lm") else 0
    prediction = forecast(recipe, work, flops["total"], device, precision, start())
    return Estimate(
        sum(parameter.numel() for parameter in model.parameters()),
        trained_numel(model),
        tokens,
        steps,
        micro_batch,
        flops,
        likely_peak(PROCESS_BYTES, state, micro_batch * row_bytes, logits),
        planned_bytes(recipe, model, data.objective.companions),
        prediction.seconds,
        prediction.energy_kwh,
        prediction.emissions_g,
        prediction.basis,
        resolve_place(recipe.carbon).describe(),
        {**_ASSUMPTIONS, **prediction.assumptions},
        prediction.full_power,
        prediction.table_seconds,
        rate_trial=trial if isinstance(trial, RateTrialPlan) else None,
        no_rate_trial=trial.reason if isinstance(trial, NoTrial) else None,
    )


def _state_bytes(recipe: Recipe, data: TrainingData, model: Transformer, precision: torch.dtype) -> int:
    """Return the bytes of weights, gradients and optimizer state, including those of companions and a reference."""
    parameters, trained, kept = (
        sum(parameter.numel() for parameter in model.parameters()),
        trained_numel(model),
        kept_numel(recipe, model),
    )
    state = state_bytes(parameters, trained, kept, precision, whole=holds_whole_model(recipe))
    further = further_models(recipe, data.objective, model, precision)
    return state + further.held + further.in_step

"""The prediction and the outcome of a run: both are recorded in run.json, and as a pair in the history from which later plans learn."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from tfkit.engine.planning.estimate import Estimate
from tfkit.engine.planning.forecast import size_class
from tfkit.engine.planning.forecast_history import TABLE_VERSION, PastRun, remember
from tfkit.engine.planning.machine_speed import device_name
from tfkit.recipe.schema.sections import Recipe


def predicted(plan: Estimate, recipe: Recipe) -> dict[str, Any]:
    """Return `predicted` of run.json; energy and emissions are None if the run is not metered. `flops`: of the steps."""
    metered = recipe.carbon.enabled
    return {
        "seconds": asdict(plan.seconds),
        "energy_kwh": asdict(plan.energy_kwh) if metered else None,
        "emissions_g": asdict(plan.emissions_g) if metered else None,
        "memory_bytes": plan.memory_bytes,
        "flops": plan.training_flops,
        "basis": plan.basis,
    }


def actual(totals: Mapping[str, Any], memory_bytes: int) -> dict[str, Any]:
    """Return `actual` of run.json, from the totals of all attempts; `flops`: of the steps, counted as in the plan."""
    return {
        **{name: totals.get(name) for name in ("seconds", "energy_kwh", "emissions_g")},
        "memory_bytes": memory_bytes,
        "flops": totals.get("train_flops"),
    }


def remember_outcome(plan: Estimate, recipe: Recipe, totals: Mapping[str, Any], device: torch.device) -> None:
    """Add a run that was finished in one attempt, with its prediction, to the history."""
    seconds, kwh = totals.get("seconds"), totals.get("energy_kwh")
    if not seconds:
        return
    remember(
        PastRun(
            device_name(device),
            torch.get_num_threads(),
            recipe.objective.kind,
            size_class(plan.flops["total"]),
            sum(plan.table_seconds.values()),
            plan.seconds.likely,
            seconds,
            plan.energy_kwh.likely if recipe.carbon.enabled else None,
            kwh or None,
            recipe.carbon.pue,
            plan.table_seconds.get("start", 0.0),
            TABLE_VERSION,
        )
    )

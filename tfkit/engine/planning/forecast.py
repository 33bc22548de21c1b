"""Estimate the size, memory, time, energy and emissions of a run before its first step, without making or loading weights.

The time is computed from the table of this machine's speeds (machine_speed.py), and corrected by the history of earlier runs
(forecast_history.py). run.json records the prediction and the outcome; so does the history, for a run that finishes in one attempt.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from tfkit.carbon import Place, resolve_place
from tfkit.carbon.footprint import RunTotals
from tfkit.data import Loader
from tfkit.engine.assembly.components import batch_sizes, total_steps
from tfkit.engine.assembly.memory_plan import disk_bytes, run_memory, sums_gradients, trained_numel
from tfkit.engine.planning.forecast_history import TABLE_VERSION, PastRun, correction_for, remember
from tfkit.engine.planning.hardware import ProcessorPower, gpu_of, machine_watts, memory_watts, processor_power
from tfkit.engine.planning.machine_speed import device_name, machine_speed
from tfkit.engine.planning.run_flops import RunWork, run_flops
from tfkit.engine.training_run.contention import busy_neighbours
from tfkit.engine.training_run.estimate import Estimate, FullPower, Range, RateTrialPlan
from tfkit.engine.training_run.run import Run
from tfkit.model.experts import active_numel
from tfkit.objectives.registry import open_rows, row_order
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.device import pick_precision
from tfkit.training.free_memory import available_bytes
from tfkit.training.memory import choose_micro_batch, likely_peak, logits_bytes, planned_row_bytes

PROCESS_BYTES = 350_000_000  # memory of Python and its libraries
_ASSUMPTIONS = {
    "flops": "matrix products of the real batches, padding included; attention between visible positions",
    "memory_bytes": "by formula, from the model's configuration",
}
_TABLE_SPREAD = 2.0  # the bounds of an uncorrected time are its likely value divided and multiplied by this factor
_START_SPREAD = Range(0.8, 1.0, 1.5)  # bounds of the time for preparing the data, divided by the measured time
_UNKNOWN_BOARD_WATTS = 300.0  # assumed power of a GPU that is not in the table of hardware.py


@dataclass(frozen=True)
class Power:
    """The power of a machine in watts, and how this number was obtained."""

    watts: Range
    source: str


@dataclass(frozen=True)
class Forecast:
    """Time, energy and emissions of a run, and how they were obtained: the fields of `Estimate` with the same names."""

    seconds: Range
    energy_kwh: Range
    emissions_g: Range
    basis: str
    assumptions: dict[str, str]
    full_power: FullPower | None
    table_seconds: dict[str, float]  # seconds of each part of the run, from the table of speeds, not corrected by earlier runs


def estimate_run(run: Run, start: Callable[[], float]) -> Estimate:
    """Estimate a run from its recipe, its data and the shapes of its model. `start` returns the seconds since the run's command began."""
    recipe, data, model, device = run.recipe, run.data, run.shapes, run.device
    objective, config, training = data.objective, data.config, recipe.training
    rows = open_rows(recipe, objective, data.train, config)
    sizes = batch_sizes(recipe, rows)
    steps = total_steps(recipe, rows, sizes)
    mix = objective.pretraining
    pretraining = mix.ratio * row_order(recipe, config).length if mix is not None else 0  # pretraining tokens mixed in for each row
    dtype = pick_precision(training.precision, device)
    fused, checkpointing = device.type == "cuda", training.activation_checkpointing
    row_bytes = planned_row_bytes(config, objective, rows.longest, dtype.itemsize, has_fused_dropout=fused, checkpointing=checkpointing)
    left = available_bytes() if device.type == "cpu" else None
    if left is not None:
        left -= run_memory(recipe, objective, model, dtype).total
    micro_batch = training.micro_batch_size or choose_micro_batch(sizes.unit, rows.longest, row_bytes, left)
    sums = sums_gradients(objective, sizes.full, micro_batch)
    state = run_memory(recipe, objective, model, dtype, sums_gradients=sums).total
    logits = logits_bytes(config, micro_batch * rows.longest, dtype.itemsize)
    flops, work, trial = run_flops(recipe, data, model, Loader(rows, objective.collate, sizes, micro_batch), steps)
    prediction = forecast(recipe, work, flops["total"], device, dtype, start())
    return Estimate(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        active_parameters=active_numel(model),
        trained_parameters=trained_numel(model),
        tokens=round(sizes.before(steps) * (rows.mean_tokens + pretraining)),
        steps=steps,
        micro_batch_size=micro_batch,
        flops=flops,
        memory_bytes=likely_peak(PROCESS_BYTES, state, micro_batch * row_bytes, logits),
        disk_bytes=disk_bytes(recipe, model, objective),
        place=resolve_place(recipe.carbon).describe(),
        rate_trial=trial if isinstance(trial, RateTrialPlan) else None,
        no_rate_trial=trial if isinstance(trial, str) else None,
        **vars(replace(prediction, assumptions=_ASSUMPTIONS | prediction.assumptions)),
    )


def forecast(recipe: Recipe, work: RunWork, flops: float, device: torch.device, precision: torch.dtype, start: float) -> Forecast:
    """Forecast a run from the table of this machine's speeds, corrected by the measured times of earlier runs, if there are any.

    `flops`: the FLOPs of the whole run; `start`: the measured seconds until the run's data were prepared.
    """
    threads = torch.get_num_threads()
    parts = work.seconds_by_part(machine_speed(device, precision, threads), start)
    table = sum(parts.values()) - start
    correction = correction_for(device_name(device), threads, recipe.objective.kind, size_class(flops))
    if correction.time_ratio is None:
        rest, basis = Range(table / _TABLE_SPREAD, table, table * _TABLE_SPREAD), "table"
        how = "from this machine's speeds (matrix products, attention, norms, softmax, updates, call overhead); no earlier run here"
    else:
        rest, basis = correction.time_ratio * table, "learned"
        how = (
            f"from this machine's speeds, times {correction.time_ratio.likely:.3g}, the median ratio of {correction.runs} earlier runs here"
        )
    neighbours = busy_neighbours() if device.type == "cpu" else 0
    on_a_core = math.ceil((threads + neighbours) / (os.cpu_count() or 1))  # threads per core; a step waits for its slowest thread
    if neighbours and on_a_core > 1:
        rest = replace(rest, high=rest.high * on_a_core)
        how += f"; up to {on_a_core} times as long while other processes keep {neighbours} threads busy, as they do now"
    power = modelled_power(device, threads) if correction.watts is None else Power(correction.watts, "the median of earlier runs here")
    how += f"; {start:.3g} s for preparing the data"
    return build_forecast(recipe, rest + _START_SPREAD * start, power, basis, {"seconds": how}, device, parts)


def build_forecast(
    recipe: Recipe, seconds: Range, power: Power, basis: str, assumptions: dict[str, str], device: torch.device, table: dict[str, float]
) -> Forecast:
    """Return the forecast for a time and a power; `table`: the seconds of each part of the run from the table of this machine's speeds."""
    place, pue, watts = resolve_place(recipe.carbon), recipe.carbon.pue, power.watts
    energy = Range(*(s * w / 3.6e6 * pue for s, w in zip(seconds, watts, strict=True)))
    how = f"{watts.likely:.3g} W ({watts.low:.3g} to {watts.high:.3g}): {power.source}" + (f"; times a PUE of {pue:g}" if pue != 1 else "")
    full = _full_power(seconds.likely / 3600, place.intensity_g_per_kwh, device)
    grams, grams_source = emissions_of(energy, place)
    return Forecast(seconds, energy, grams, basis, assumptions | {"energy_kwh": how} | grams_source, full, table)


def emissions_of(energy: Range, place: Place) -> tuple[Range, dict[str, str]]:
    """Return the emissions in g of an energy in kWh, with bounds from both energy and carbon intensity, and how they are computed."""
    low, high = place.range_g_per_kwh
    text = place.describe()
    if place.range_source is not None:
        text += f"; between {low:.4g} and {high:.4g} g/kWh: {place.range_source}"
    return Range(energy.low * low, energy.likely * place.intensity_g_per_kwh, energy.high * high), {"emissions_g": text}


def modelled_power(device: torch.device, threads: float) -> Power:
    """Return the power of this machine with `threads` busy threads by CodeCarbon's model, plus that of the GPU if `device` is one."""
    processor, ram, likely = processor_power(), memory_watts(), machine_watts(threads)
    text = f"{processor.watts:.3g} W for the processor at full load ({processor.source}), {ram:.3g} W for memory (CodeCarbon's constant)"
    most = max(processor.watts + ram, likely)
    if device.type != "cuda":
        return Power(Range(min(likely, 0.1 * processor.watts + ram), likely, most), text)
    board = _board_power(device)
    which = f"{board.watts:g} W for the {board.name}" + (", a guess, since this GPU is unknown" if gpu_of(board.name) is None else "")
    watts = Range(0.4 * board.watts + ram, 0.8 * board.watts + likely, board.watts + most)
    return Power(watts, f"{text}, {which}, at a load of 40 to 100 %")


def _board_power(device: torch.device) -> ProcessorPower:
    """Return the name of a GPU and the maximum power of its board: a guess for a GPU that is not in the table GPUS."""
    name = torch.cuda.get_device_name(device)
    gpu = gpu_of(name)
    return ProcessorPower(name, *((gpu.watts, gpu.source) if gpu is not None else (_UNKNOWN_BOARD_WATTS, "a guess: unknown GPU")))


def size_class(flops: float) -> int:
    """Return the power of ten nearest to the FLOPs of a run."""
    return round(math.log10(max(1.0, flops)))


def _full_power(hours: float, intensity: float, device: torch.device) -> FullPower:
    """Return the emissions of `hours` at the full power of the GPU or, without a GPU, of the processor, as ML CO2 Impact computes them."""
    power = _board_power(device) if device.type == "cuda" else processor_power()
    return FullPower(power.name, power.watts, hours, power.watts * hours / 1000 * intensity, power.source)


def remember_outcome(run: Run, plan: Estimate, totals: RunTotals) -> None:
    """Add a run, finished in one attempt, to the history: its prediction, and its measured totals. A run of unknown time is left out."""
    if not totals.seconds:
        return
    remember(
        PastRun(
            device_name(run.device),
            torch.get_num_threads(),
            run.recipe.objective.kind,
            size_class(plan.flops["total"]),
            sum(plan.table_seconds.values()),
            plan.seconds.likely,
            totals.seconds,
            plan.energy_kwh.likely if run.recipe.carbon.enabled else None,
            totals.energy_kwh or None,
            run.recipe.carbon.pue,
            plan.table_seconds.get("start", 0.0),
            TABLE_VERSION,
        )
    )

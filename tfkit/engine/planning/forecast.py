"""Time, energy and emissions of a run on this machine: by its table of speeds, corrected by what earlier runs on it took."""

import math
from dataclasses import dataclass

import torch

from tfkit.carbon import Place, resolve_place
from tfkit.engine.planning.estimate import FullPower, Range
from tfkit.engine.planning.forecast_history import learned
from tfkit.engine.planning.gpus import gpu_of
from tfkit.engine.planning.machine_speed import device_name, machine_speed
from tfkit.engine.planning.processor_power import machine_watts, memory_watts, processor_power
from tfkit.engine.planning.workload import RunWork
from tfkit.recipe.schema.sections import Recipe

_TABLE_SPREAD = 2.0  # to either side, of a time by the table alone
START_SPREAD = Range(0.8, 1.0, 1.5)  # of the time until the data are prepared, which was measured


@dataclass(frozen=True)
class Power:
    """The watts of a machine, with how they were obtained."""

    watts: Range
    source: str


@dataclass(frozen=True)
class Forecast:
    """Time, energy and emissions, and how they were obtained."""

    seconds: Range
    energy_kwh: Range
    emissions_g: Range
    basis: str
    assumptions: dict[str, str]
    full_power: FullPower | None
    table_seconds: dict[str, float]  # by part, before it was corrected


def forecast(recipe: Recipe, work: RunWork, flops: float, device: torch.device, precision: torch.dtype, start: float) -> Forecast:
    """Forecast a run by the table of this machine's speeds and, where there are earlier runs, by the ratio that these had to it.

    `start`: the seconds until its data are prepared, as they were measured.
    """
    threads = torch.get_num_threads()
    parts = work.seconds_by_part(machine_speed(device, precision, threads), start)
    table = sum(parts.values()) - start
    known = learned(device_name(device), threads, recipe.objective.kind, size_class(flops))
    if known.time is None:
        rest, basis = Range(table / _TABLE_SPREAD, table, table * _TABLE_SPREAD), "table"
        how = "by the speeds of this machine at products of several widths, norms, softmax, updates and calls; no earlier run here"
    else:
        rest, basis = known.time * table, "learned"
        how = f"by the speeds of this machine, times {known.time.likely:.3g}, which {known.runs} earlier runs here took"
    power = Power(known.watts, "the mean of earlier runs here") if known.watts is not None else modelled_power(device, threads)
    return made_forecast(recipe, rest + START_SPREAD * start, power, basis, {"seconds": f"{how}; {start:.3g} s until then"}, device, parts)


def made_forecast(
    recipe: Recipe, seconds: Range, power: Power, basis: str, assumptions: dict[str, str], device: torch.device, table: dict[str, float]
) -> Forecast:
    """Return the forecast of a time and a power."""
    place, pue, watts = resolve_place(recipe.carbon), recipe.carbon.pue, power.watts
    energy = Range(*(s * w / 3.6e6 * pue for s, w in zip(parts_of(seconds), parts_of(watts), strict=True)))
    how = f"{watts.likely:.3g} W ({watts.low:.3g} to {watts.high:.3g}): {power.source}" + (f"; times a PUE of {pue:g}" if pue != 1 else "")
    full = _full_power(seconds.likely / 3600, place.intensity_g_per_kwh, device)
    grams, of_grams = emissions_of(energy, place)
    return Forecast(seconds, energy, grams, basis, assumptions | {"energy_kwh": how} | of_grams, full, table)


def emissions_of(energy: Range, place: Place) -> tuple[Range, dict[str, str]]:
    """Return the emissions of an energy, and how they were obtained, as assumptions have it: energy and intensity err together."""
    low, high = place.ends_g_per_kwh
    text = place.describe()
    if place.range_source is not None:
        text += f"; between {low:.3g} and {high:.3g} g/kWh: {place.range_source}"
    return Range(energy.low * low, energy.likely * place.intensity_g_per_kwh, energy.high * high), {"emissions_g": text}


def modelled_power(device: torch.device, threads: float) -> Power:
    """Return the power of an unmeasured machine with this many busy threads, by CodeCarbon's model; of a GPU by its data sheet."""
    processor, ram, likely = processor_power(), memory_watts(), machine_watts(threads)
    text = f"{processor.watts:.3g} W of the processor at full load ({processor.source}), {ram:.3g} W of memory (CodeCarbon's constant)"
    most = max(processor.watts + ram, likely)
    if device.type != "cuda":
        return Power(Range(min(likely, 0.1 * processor.watts + ram), likely, most), text)
    name = torch.cuda.get_device_name(device)
    gpu = gpu_of(name)
    board = gpu.watts if gpu is not None else _UNKNOWN_BOARD_WATTS
    which = f"{board:g} W of the {name}" + ("" if gpu is not None else ", a guess since this GPU is not known")
    return Power(Range(0.4 * board + ram, 0.8 * board + likely, board + most), f"{text}, {which}, of which 40 to 100 % are used")


_UNKNOWN_BOARD_WATTS = 300.0


def size_class(flops: float) -> int:
    """Return the power of ten of the FLOPs of a run."""
    return round(math.log10(max(1.0, flops)))


def parts_of(value: Range) -> tuple[float, float, float]:
    """Return low, likely, high."""
    return value.low, value.likely, value.high


def _full_power(hours: float, intensity: float, device: torch.device) -> FullPower:
    """Return the estimate of ML CO2 Impact: of a GPU its board's power, elsewhere the processor's."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        gpu = gpu_of(name)
        watts, source = (gpu.watts, gpu.source) if gpu is not None else (_UNKNOWN_BOARD_WATTS, "a guess: no known GPU")
        return FullPower(name, watts, hours, watts * hours / 1000 * intensity, source)
    power = processor_power()
    return FullPower(power.name, power.watts, hours, power.watts * hours / 1000 * intensity, power.source)

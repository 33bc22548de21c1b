"""The uncertainty of an attempt's energy and emissions, as a range that depends on how the energy of each component was obtained.

A counter (RAPL, NVML) is accurate to about 5 %. CodeCarbon's model of a processor is TDP x (0.1 + 0.9 u^3) at utilization u, so its range
is 10 % to 100 % of the TDP. Its constant for memory is 5 W for each of an estimated number of modules, whose real power is between 2 W
(idle) and 8 W (busy). A memory power that the user gives is exact; a processor power that the user gives is the TDP of the model.
The components are assumed to err in the same direction, so the range of the total is the sum of their ranges. The range of the emissions
is that of the energy times that of the intensity, if it has one (intensity_range.py).
"""

from collections.abc import Mapping
from typing import Any

from tfkit.carbon.ledger import Attempt

PARTS = ("cpu", "gpu", "ram")
COUNTER_MARGIN = 0.05  # NVML: 5 % of the board (documentation of nvmlDeviceGetPowerUsage); RAPL: similar (Khan et al. 2018, TOMPECS 3(2))
MODULE_LOW, MODULE_HIGH = 2 / 5, 8 / 5  # of CodeCarbon's 5 W; its rule before version 3, 3 W for 8 GB, is within the range
IDLE_FRACTION = 0.1  # of the TDP, at no load


def energy_range(attempt: Attempt) -> tuple[float, float]:
    """Return the lowest and highest energy of an attempt, in Wh; its recorded sum is always in between."""
    ranges = [_part_range(attempt, part) for part in PARTS]
    total, parts = attempt.sums["energy_wh"], sum(attempt.sums[f"{part}_wh"] for part in PARTS)
    rest = max(0.0, total - parts)  # 0, except in a ledger of another probe
    return min(total, rest + sum(low for low, _ in ranges)), max(total, rest + sum(high for _, high in ranges))


def emissions_range(attempt: Attempt) -> tuple[float, float]:
    """Return the lowest and highest emissions of an attempt, in grams."""
    grams, energy = attempt.sums["emissions_g"], attempt.sums["energy_wh"]
    if not energy:
        return grams, grams
    (low, high), (low_factor, high_factor) = energy_range(attempt), intensity_factors(attempt.place)
    return grams * low / energy * low_factor, grams * high / energy * high_factor


def intensity_factors(place: Mapping[str, Any]) -> tuple[float, float]:
    """Return the lowest and highest intensity of a place relative to its intensity; 1 and 1 if it has no range."""
    values = [place.get(name) for name in ("intensity_g_per_kwh", "low_g_per_kwh", "high_g_per_kwh")]
    mean, low, high = (value if isinstance(value, int | float) and 0 <= value < 1e300 else None for value in values)
    if not mean or low is None or high is None:
        return 1.0, 1.0
    return min(1.0, low / mean), max(1.0, high / mean)


def _part_range(attempt: Attempt, part: str) -> tuple[float, float]:
    energy, source = attempt.sums[f"{part}_wh"], attempt.components.get(part)
    if source == "counter":
        return energy * (1 - COUNTER_MARGIN), energy * (1 + COUNTER_MARGIN)
    if part == "cpu" and source in ("model", "user"):
        full_load = _full_load_energy(attempt)
        return min(energy, IDLE_FRACTION * full_load), max(energy, full_load)
    if part == "ram" and source == "constant":
        return energy * MODULE_LOW, energy * MODULE_HIGH
    return energy, energy


def _full_load_energy(attempt: Attempt) -> float:
    """Return the energy of the processor at its TDP for the whole attempt, in Wh; an unknown TDP follows from the model and its energy."""
    tdp, pue = attempt.machine.get("tdp_w"), attempt.header.get("pue")
    if tdp:
        hours = (attempt.measured_seconds + attempt.estimate["seconds"]) / 3600
        return float(tdp) * hours * (float(pue) if isinstance(pue, int | float) else 1.0)
    load = min(max(attempt.utilization["cpu_percent"] / 100, 0.0), 1.0)
    return attempt.sums["cpu_wh"] / (IDLE_FRACTION + (1 - IDLE_FRACTION) * load**3)

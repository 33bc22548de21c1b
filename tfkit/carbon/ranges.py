"""The range of an attempt's energy: no digit more than how each part was obtained can carry.

A counter (RAPL, NVML) is good to some 5 %. CodeCarbon's model of a processor is TDP x (0.1 + 0.9 u^3) at the utilization u, so that all
it can ever say lies between 10 % and 100 % of the TDP. Its constant for memory is 5 W for each of an estimated number of modules, which
take 2 to 8 W as they are idle or busy. What the user gives is taken as it is; a processor's power is the TDP of the model even so.
The range of the whole is the sum of the parts', as if they erred together. That of the emissions is this one times that of the intensity,
where it has one (intensity_range.py).
"""

from collections.abc import Mapping
from typing import Any

from tfkit.carbon.ledger import Attempt

PARTS = ("cpu", "gpu", "ram")
COUNTER_MARGIN = 0.05  # NVML: 5 % of the board (documentation of nvmlDeviceGetPowerUsage); RAPL: similar (Khan et al. 2018, TOMPECS 3(2))
MODULE_LOW, MODULE_HIGH = 2 / 5, 8 / 5  # of the 5 W of CodeCarbon's constant; 3 W for 8 GB, its rule before version 3, is within
IDLE_FRACTION = 0.1  # of the TDP, at no load


def energy_range(attempt: Attempt) -> tuple[float, float]:
    """Return the least and the most energy of an attempt, in Wh; the sum that it has is always between them."""
    ranges = [_part_range(attempt, part) for part in PARTS]
    total, parts = attempt.sums["energy_wh"], sum(attempt.sums[f"{part}_wh"] for part in PARTS)
    rest = max(0.0, total - parts)  # none: the parts add up, except in a ledger of another probe
    return min(total, rest + sum(low for low, _ in ranges)), max(total, rest + sum(high for _, high in ranges))


def emissions_range(attempt: Attempt) -> tuple[float, float]:
    """Return the least and the most emissions of an attempt, in grams."""
    grams, energy = attempt.sums["emissions_g"], attempt.sums["energy_wh"]
    if not energy:
        return grams, grams
    (low, high), (least, most) = energy_range(attempt), intensity_factors(attempt.place)
    return grams * low / energy * least, grams * high / energy * most


def intensity_factors(place: Mapping[str, Any]) -> tuple[float, float]:
    """Return the ends of a place's intensity as factors of it; 1 where it has no range."""
    values = [place.get(name) for name in ("intensity_g_per_kwh", "low_g_per_kwh", "high_g_per_kwh")]
    mean, low, high = (value if isinstance(value, int | float) and 0 <= value < 1e300 else None for value in values)
    if not mean or low is None or high is None:
        return 1.0, 1.0
    return min(1.0, low / mean), max(1.0, high / mean)


def _part_range(attempt: Attempt, part: str) -> tuple[float, float]:
    energy, kind = attempt.sums[f"{part}_wh"], attempt.components.get(part)
    if kind == "counter":
        return energy * (1 - COUNTER_MARGIN), energy * (1 + COUNTER_MARGIN)
    if part == "cpu" and kind in ("model", "user"):
        most = _full_load(attempt)
        return min(energy, IDLE_FRACTION * most), max(energy, most)
    if part == "ram" and kind == "constant":
        return energy * MODULE_LOW, energy * MODULE_HIGH
    return energy, energy


def _full_load(attempt: Attempt) -> float:
    """Return the energy that the processor would have taken at its TDP, in Wh; without a known TDP that of the model, solved for it."""
    tdp, pue = attempt.machine.get("tdp_w"), attempt.header.get("pue")
    if tdp:
        hours = (attempt.measured_seconds + attempt.estimate["seconds"]) / 3600
        return float(tdp) * hours * (float(pue) if isinstance(pue, int | float) else 1.0)
    load = min(max(attempt.utilization["cpu_percent"] / 100, 0.0), 1.0)
    return attempt.sums["cpu_wh"] / (IDLE_FRACTION + (1 - IDLE_FRACTION) * load**3)

"""The totals of a run from its ledgers (ledger.py): sums over its attempts (starts), their ranges, and how the energy was obtained.

The range of an attempt's energy depends on how the energy of each component was obtained. A counter (RAPL, NVML) is accurate to about 5 %.
CodeCarbon's model of a processor is TDP x (0.1 + 0.9 u^3) at utilization u, so its range is 10 % to 100 % of the TDP. For memory,
CodeCarbon assumes up to 5 W for each of an estimated number of modules; the real power of a module is between 2 W (idle) and 8 W (busy).
A memory power from the user counts as exact; a processor power from the user is used as the TDP of the model. The errors of the components
are assumed to have the same sign, so the range of the total is the sum of the ranges of the components. The range of the emissions is the
range of the energy times the range of the intensity, if that is known (place.py).
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkit.carbon.footprint import SUMS, Footprint, Intensity, Reading, RunTotals, describe_sources, joined
from tfkit.carbon.ledger import Attempt, LedgerReader, Phase

_MODELLED = ("model", "constant")
_MOST_NODES = 100_000  # a larger number of nodes, as in a damaged ledger, counts as this number
_PARTS = ("cpu", "gpu", "ram")
_COUNTER_MARGIN = 0.05  # NVML: 5 % (documentation of nvmlDeviceGetPowerUsage); RAPL: similar (Khan et al. 2018, TOMPECS 3(2))
_MODULE_LOW, _MODULE_HIGH = 2 / 5, 8 / 5  # factors of CodeCarbon's 5 W; the range includes the 3 W for 8 GB that CodeCarbon 2 assumed
_IDLE_FRACTION = 0.1  # the fraction of the TDP that a processor uses without load


def attempts_of(run_folder: Path, run_id: str | None = None, *, keeps_ticks: bool = False) -> list[Attempt]:
    """Return each ledger's sums, sorted by attempt and node. `run_id` None: of any run; `keeps_ticks`: also the ticks. Raises OSError."""
    reader = LedgerReader(run_folder / "carbon", keeps_ticks=keeps_ticks)
    return [attempt for attempt in reader.attempts() if run_id in (None, attempt.header["run_id"])]


def reading_of(attempts: Sequence[Attempt]) -> Reading:
    """Return the sums over the attempts of a run; without attempts, the status is "off"."""
    if not attempts:
        return Reading()
    sums: dict[str, Any] = {name: sum(attempt.sums[name] for attempt in attempts) for name in SUMS}
    sums["seconds"] = sum(wall_seconds(attempts).values())
    degraded = has_gaps(attempts, attempts[-1].header["attempt"])
    place = str(attempts[-1].place.get("text", ""))
    return Reading(status="degraded" if degraded else "ok", place=place, provenance=describe_sources(attempts[-1].components), **sums)


def read_totals(run_folder: Path, run_id: str | None = None) -> Reading:
    """Return the present totals of a run from its ledgers. `run_id` None: of all runs. Without ledgers, the status is "off"."""
    return reading_of(attempts_of(run_folder, run_id))


def read_seconds(run_folder: Path, run_id: str) -> dict[int, float]:
    """Return the wall seconds of the attempts that have a ledger, by attempt (from 1); {} if the ledgers cannot be read."""
    with contextlib.suppress(OSError):
        return wall_seconds(attempts_of(run_folder, run_id))
    return {}


def wall_seconds(attempts: Iterable[Attempt]) -> dict[int, float]:
    """Return the wall seconds by attempt (from 1). The nodes of an attempt work at the same time, so the longest time of a node counts."""
    nodes: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))  # seconds by attempt and node
    for attempt in attempts:
        nodes[attempt.header["attempt"]][attempt.header["node"]] += attempt.sums["seconds"]
    return {number: max(0.0, *seconds.values()) for number, seconds in nodes.items()}


def missing_nodes(attempts: Iterable[Attempt]) -> list[str]:
    """Return a sentence for each node without a ledger in an attempt. The ledgers of the other nodes state how many the attempt had."""
    present: defaultdict[int, set[int]] = defaultdict(set)
    expected: defaultdict[int, int] = defaultdict(int)
    for attempt in attempts:
        number, nodes = attempt.header["attempt"], attempt.header.get("nodes")
        present[number].add(attempt.header["node"])
        expected[number] = max(expected[number], nodes if isinstance(nodes, int) else 1)
    missing = ((number, sorted({*range(min(expected[number], _MOST_NODES))} - present[number])) for number in present)
    return [f"node {node} did not report in attempt {number}" for number, nodes in missing for node in nodes]


def has_gaps(attempts: Sequence[Attempt], last: int) -> bool:
    """Return whether the energy of attempts 1 to `last` is a lower bound, because the ledger of a node is missing or incomplete."""
    numbers = {attempt.header["attempt"] for attempt in attempts}
    incomplete = any(attempt.outcome != "ok" for attempt in attempts) or bool(missing_nodes(attempts))
    return incomplete or sum(1 <= number <= last for number in numbers) < last


def totals_of(attempts: Sequence[Attempt], seconds: float) -> RunTotals:
    """Return the totals of a run that follow from its ledgers. A range is the sum of the ranges of the attempts.

    `seconds`: the wall time of all attempts, whether they were metered or not.
    """
    reading = reading_of(attempts)
    if not attempts:
        return RunTotals(seconds=seconds, carbon_status=reading.outcome)
    energy, repeated = reading.energy_wh, rework(attempts)
    known: dict[str, Any] = {}
    if energy:
        spans = (_energy_range, _emissions_range)
        low, high, grams_low, grams_high = (sum(span(attempt)[end] for attempt in attempts) for span in spans for end in (0, 1))
        modelled = sum(attempt.sums[f"{part}_wh"] for attempt in attempts for part in _PARTS if attempt.components.get(part) in _MODELLED)
        known = {
            "energy_kwh_low": low / 1000,
            "energy_kwh_high": high / 1000,
            "emissions_g_low": grams_low,
            "emissions_g_high": grams_high,
            "modelled_share": round(modelled / energy, 4),
            "provenance": {part: joined(attempt.components.get(part) for attempt in attempts) for part in _PARTS},
        }
    measured_seconds = sum(attempt.measured_seconds for attempt in attempts)
    node_seconds = seconds + sum(attempt.sums["seconds"] for attempt in attempts) - reading.seconds  # summed over nodes
    return RunTotals(
        **vars(Footprint.from_reading(reading)),
        **known,
        seconds=seconds,
        coverage=round(min(1.0, measured_seconds / node_seconds), 4) if seconds else None,
        pue=_number(attempts[-1].header.get("pue")),
        intensity=_intensity(attempts, reading),
        device_seconds=_device_seconds(attempts) or None,
        idle_kwh=_idle_kwh(attempts),
        rework_kwh=repeated["energy_wh"] / 1000,
        rework_g=repeated["emissions_g"],
        rework_seconds=round(repeated["seconds"], 3),
    )


def ledger_totals(run_folder: Path, run_id: str, seconds: float) -> RunTotals | None:
    """Return the totals of a run from the ledgers in its folder (see `totals_of`); None if there is no ledger that can be read."""
    with contextlib.suppress(OSError):
        if attempts := attempts_of(run_folder, run_id):
            return totals_of(attempts, seconds)
    return None


def _intensity(attempts: Sequence[Attempt], reading: Reading) -> Intensity:
    """Return the carbon intensity over all attempts, in g/kWh, with its range and source."""
    places = [attempt.place for attempt in attempts]
    grams = {_number(place.get("intensity_g_per_kwh")) for place in places}
    charged = reading.emissions_g / reading.energy_wh * 1000 if reading.energy_wh else None
    integral, seconds = sum(attempt.series_integral for attempt in attempts), sum(attempt.series_seconds for attempt in attempts)
    value = grams.pop() if len(grams) == 1 and not seconds else charged
    series: dict[str, Any] = {}
    if seconds:
        mean, beyond = integral / seconds, any(attempt.is_beyond_series for attempt in attempts)
        series = {"mean_g_per_kwh": mean, "emissions_g_at_mean": mean * reading.energy_wh / 1000, "beyond_series": beyond}
    return Intensity(
        g_per_kwh=value,
        **_intensity_range(attempts, value),
        **series,
        source=joined(place.get("dataset") or place.get("source") for place in places),
        year=places[-1].get("year"),
        kind=joined(place.get("kind") for place in places),
    )


def _intensity_range(attempts: Sequence[Attempt], intensity: float | None) -> dict[str, Any]:
    """Return the range of the carbon intensity, as a mean over the attempts, weighted by emissions; {} if no range is known."""
    factors = [_intensity_factors(attempt.place) for attempt in attempts]
    if intensity is None or all(factor == (1.0, 1.0) for factor in factors):
        return {}
    grams = [attempt.sums["emissions_g"] for attempt in attempts]
    weights = grams if any(grams) else [1.0] * len(grams)
    low, high = (sum(weight * factor[end] for weight, factor in zip(weights, factors, strict=True)) / sum(weights) for end in (0, 1))
    return {"low_g_per_kwh": intensity * low, "high_g_per_kwh": intensity * high}


def _device_seconds(attempts: Iterable[Attempt]) -> dict[str, float]:
    """Return the device seconds by device name: for GPUs the wall time times their number, for the processor the wall time."""
    seconds: dict[str, float] = {}
    for attempt in attempts:
        record = attempt.machine.get("record", {})
        boards = re.findall(r"(\d+) x (.+?)(?=\d x |$)", str(record.get("gpu_model") or "")) if "gpu" in attempt.components else []
        devices = [(str(record["cpu_model"]), 1)] if record.get("cpu_model") else []
        for name, count in [*devices, *((name, int(number)) for number, name in boards)]:
            seconds[name] = round(seconds.get(name, 0.0) + count * attempt.sums["seconds"], 3)
    return seconds


def _idle_kwh(attempts: Sequence[Attempt]) -> float | None:
    """Return the energy that the idle machine would have used in the time of all attempts, at the power of the phase `idle`, in which the
    meter runs before the training.

    For an attempt without this phase, the power is that of the latest earlier attempt with the phase; if there is none, that of the first
    attempt with the phase. None if no attempt has the phase.
    """
    phases = [attempt.phases.get("idle", Phase()).sums for attempt in attempts]
    powers = [idle["energy_wh"] * 3600 / idle["seconds"] if idle["seconds"] > 0 else None for idle in phases]
    watts = next((power for power in powers if power is not None), None)
    if watts is None:
        return None
    total = 0.0
    for attempt, power in zip(attempts, powers, strict=True):
        watts = watts if power is None else power
        total += watts * attempt.sums["seconds"] / 3600
    return total / 1000


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None


def _energy_range(attempt: Attempt) -> tuple[float, float]:
    """Return the lowest and highest energy of an attempt, in Wh; the recorded sum is always in this range."""
    ranges = [_part_range(attempt, part) for part in _PARTS]
    total, parts = attempt.sums["energy_wh"], sum(attempt.sums[f"{part}_wh"] for part in _PARTS)
    rest = max(0.0, total - parts)  # 0, unless the ledger was written with another probe than CodeCarbon
    return min(total, rest + sum(low for low, _ in ranges)), max(total, rest + sum(high for _, high in ranges))


def _emissions_range(attempt: Attempt) -> tuple[float, float]:
    """Return the lowest and highest emissions of an attempt, in grams."""
    grams, energy = attempt.sums["emissions_g"], attempt.sums["energy_wh"]
    if not energy:
        return grams, grams
    (low, high), (low_factor, high_factor) = _energy_range(attempt), _intensity_factors(attempt.place)
    return grams * low / energy * low_factor, grams * high / energy * high_factor


def _intensity_factors(place: Mapping[str, Any]) -> tuple[float, float]:
    """Return the lowest and the highest intensity of a place, each divided by its intensity; 1 and 1 if the place has no range."""
    values = [place.get(name) for name in ("intensity_g_per_kwh", "low_g_per_kwh", "high_g_per_kwh")]
    mean, low, high = (value if isinstance(value, int | float) and 0 <= value < 1e300 else None for value in values)
    if not mean or low is None or high is None:
        return 1.0, 1.0
    return min(1.0, low / mean), max(1.0, high / mean)


def _part_range(attempt: Attempt, part: str) -> tuple[float, float]:
    """Return the lowest and highest energy of a component (cpu, gpu or ram) in an attempt, in Wh."""
    energy, source = attempt.sums[f"{part}_wh"], attempt.components.get(part)
    if source == "counter":
        return energy * (1 - _COUNTER_MARGIN), energy * (1 + _COUNTER_MARGIN)
    if part == "cpu" and source in ("model", "user"):
        full_load = _full_load_energy(attempt)
        return min(energy, _IDLE_FRACTION * full_load), max(energy, full_load)
    if part == "ram" and source == "constant":
        return energy * _MODULE_LOW, energy * _MODULE_HIGH
    return energy, energy


def _full_load_energy(attempt: Attempt) -> float:
    """Return the energy of the processor at its TDP for the whole attempt, in Wh. If the TDP is unknown, the energy is derived from the
    recorded energy and the utilization.
    """
    tdp, pue = attempt.machine.get("tdp_w"), attempt.header.get("pue")
    if tdp:
        hours = (attempt.measured_seconds + attempt.estimate["seconds"]) / 3600
        return float(tdp) * hours * (float(pue) if isinstance(pue, int | float) else 1.0)
    load = min(max(attempt.utilization["cpu_percent"] / 100, 0.0), 1.0)
    return attempt.sums["cpu_wh"] / (_IDLE_FRACTION + (1 - _IDLE_FRACTION) * load**3)


def rework(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Return the time, energy and emissions of work that was lost, for example by a kill, and repeated. The run's totals include them.

    If a later attempt resumed from a step, the lost work of an attempt is its steps and evaluations after its last resume point (a
    checkpoint or a recorded evaluation) that is not beyond that step. An attempt's work before its first resume point, such as reading the
    data, does not count as lost, nor does its phase `finish`.
    """
    sums = dict.fromkeys(SUMS, 0.0)
    for attempt in attempts:
        later = [other for other in attempts if other.resume_points and other.header["attempt"] > attempt.header["attempt"]]
        if attempt.resume_points and later:
            resumed_step = min(other.resume_points[0].step for other in later)
            kept = [point for point in attempt.resume_points if point.step <= resumed_step]
            for name, value in attempt.work_since(kept[-1] if kept else attempt.resume_points[0]).items():
                # The nodes work at the same time, so only the seconds of node 0 count.
                sums[name] += 0.0 if name == "seconds" and attempt.header["node"] else value
    return sums

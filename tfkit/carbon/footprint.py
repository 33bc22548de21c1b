"""Energy and emissions: the sums of an attempt, one start of a run (`Totals`), the meter's output (`Reading`), and the totals of a run or
a command (`Footprint`). Field names contain the units; those of Footprint are as in run.json, results and reports. None: unknown.

This module does not import pydantic, so that the sidecar (sidecar.py) starts fast.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Literal, Self

from tfkit.units import format_energy, format_mass

Status = Literal["ok", "starting", "degraded", "off"]
"""ok: the last reading succeeded. starting: there is no reading yet. off: the run is not metered. degraded: CodeCarbon failed, or an
attempt was not metered, so the energy is a lower bound."""


ENERGIES = ("energy_wh", "cpu_wh", "gpu_wh", "ram_wh", "emissions_g")
SUMS = ("seconds", *ENERGIES)
"""The fields of a Reading, and of a line of a ledger, that add up over attempts."""

SILENT_SECONDS = 10.0  # after this time, a reading without energy is an error: even an idle machine uses a milliwatt-hour in ten seconds


@dataclass(frozen=True)
class Reading:
    """The totals of a run up to now, including its earlier attempts."""

    energy_wh: float = 0.0
    emissions_g: float = 0.0
    power_w: float = 0.0  # the mean over the latest measured interval, of at least half a second
    seconds: float = 0.0  # wall time, including time in which no energy was measured
    status: Status = "off"
    place: str = ""  # the country and the carbon intensity: "FRA, 56 g/kWh (...)"
    provenance: str = ""  # how the energy of each component was obtained: "CPU model, RAM constant"
    cpu_wh: float = 0.0  # this and the next two fields: the parts of energy_wh
    gpu_wh: float = 0.0
    ram_wh: float = 0.0
    failing: bool = False  # the reading is out of date, because CodeCarbon or its process has failed

    @property
    def outcome(self) -> str:
        """The `carbon_status` of a Footprint: `ok`, `degraded` (energy is a lower bound), `failed` (no energy was measured) or `off`."""
        if self.status == "off":
            return "off"
        if not self.energy_wh:
            return "failed"
        return "degraded" if self.status == "degraded" else "ok"

    @property
    def text(self) -> str:
        """The energy, the emissions and the place as text, such as `1.2 Wh, 67.2 mg CO2e (FRA, 56 g/kWh (...))`."""
        return f"{format_energy(self.energy_wh)}, {format_mass(self.emissions_g)} CO2e ({self.place})"


def add_readings(own: Reading, others: Iterable[Reading]) -> Reading:
    """Add the readings of other nodes of the run to `own`: energies, emissions and powers are summed; the time is the longest of all nodes.

    The status is degraded if another node has a status that is neither ok nor that of `own`; else it is that of `own`.
    """
    for other in others:
        sums = {name: getattr(own, name) + getattr(other, name) for name in SUMS} | {"seconds": max(own.seconds, other.seconds)}
        status = own.status if other.status in ("ok", own.status) else "degraded"
        own = replace(own, **sums, power_w=own.power_w + other.power_w, status=status)
    return own


@dataclass(frozen=True)
class Totals:
    """The sums of an attempt (one start of a run) since CodeCarbon's start, as CodeCarbon reports them: energies include the PUE factor."""

    measured_seconds: float = 0.0  # since CodeCarbon's start, which is about two seconds after the meter's start
    energy_wh: float = 0.0
    cpu_wh: float = 0.0
    gpu_wh: float = 0.0
    ram_wh: float = 0.0
    emissions_g: float = 0.0
    cpu_percent: float = 0.0  # this and the next three fields: means since CodeCarbon's start
    gpu_percent: float = 0.0
    ram_percent: float = 0.0
    ram_used_gb: float = 0.0

    def complaint(self, before: "Totals") -> str | None:
        """Return a description of the error in these totals; None if they are valid. `before`: the previous totals."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                return f"{field.name} is {value!r}"
        for name in ("energy_wh", "emissions_g"):
            if getattr(self, name) < getattr(before, name) * (1 - 1e-9):
                return f"{name} fell from {getattr(before, name):.6g} to {getattr(self, name):.6g}"
        if self.energy_wh == 0 and self.measured_seconds > SILENT_SECONDS:
            return f"no energy after {self.measured_seconds:.0f} s"
        return None


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """A run's carbon intensity over all attempts, with its range (if known) and, if it is a time series, its mean over time."""

    g_per_kwh: float | None = None
    low_g_per_kwh: float | None = None
    high_g_per_kwh: float | None = None
    mean_g_per_kwh: float | None = None
    emissions_g_at_mean: float | None = None  # the energy times mean_g_per_kwh
    beyond_series: bool | None = None  # whether the run went on after the end of the series; None: no series
    source: str | None = None
    year: int | None = None
    kind: str | None = None  # how it was obtained, such as "annual mean" (see Place)

    def document(self) -> dict[str, Any]:
        """Return the intensity as a JSON object. Fields that are None are left out, except `g_per_kwh`, `source`, `year` and `kind`."""
        always = ("g_per_kwh", "source", "year", "kind")
        return {name: value for name, value in vars(self).items() if value is not None or name in always}

    @property
    def origin(self) -> str:
        """The source, year and kind of the intensity as text."""
        return ", ".join(str(value) for value in (self.source, self.year, self.kind) if value)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The energy and emissions of a run or a command; `energy_kwh_parts`: the energy of cpu, gpu and ram.

    `carbon_status`: ok; degraded: the energy is a lower bound; failed: no energy was measured; off: the run was not metered.
    """

    energy_kwh: float | None = None
    energy_kwh_parts: dict[str, float] | None = None
    emissions_g: float | None = None
    carbon_status: str | None = None
    place: str | None = None  #: the country and the carbon intensity: "FRA, 56 g/kWh (...)"

    @classmethod
    def from_reading(cls, reading: Reading) -> Self:
        """Return the footprint of a meter's reading. Its energy is None, not 0, if none was measured."""
        unknown = cls(carbon_status=reading.outcome, place=reading.place or None)
        if reading.outcome not in ("ok", "degraded"):
            return unknown
        parts = {"cpu": reading.cpu_wh / 1000, "gpu": reading.gpu_wh / 1000, "ram": reading.ram_wh / 1000}
        return replace(unknown, energy_kwh=reading.energy_wh / 1000, energy_kwh_parts=parts, emissions_g=reading.emissions_g)


@dataclass(frozen=True, kw_only=True)
class Measurement(Footprint):
    """A footprint with the ranges of its energy and emissions, and the sources of these numbers."""

    energy_kwh_low: float | None = None  #: this and the next three fields: the range of the measurement's uncertainty
    energy_kwh_high: float | None = None
    emissions_g_low: float | None = None
    emissions_g_high: float | None = None
    coverage: float | None = None  #: the fraction of the time in which the energy was measured
    modelled_share: float | None = None  #: the fraction of the energy that was modelled or taken as a constant
    provenance: dict[str, str | None] | None = None  #: how the energy of cpu, gpu and ram was obtained: counter, model, constant or user
    pue: float | None = None
    intensity: Intensity | None = None
    device_seconds: dict[str, float] | None = None  #: by the name of the device: wall time times the number of such devices
    idle_kwh: float | None = None  #: the energy that the idle machine would have used in the same time; None: its power was not measured


MEASURED = tuple(Measurement.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class RunTotals(Measurement):
    """The totals of a run over all attempts, as in its run.json: time, energy, counts, and work lost by a kill and repeated."""

    seconds: float | None = None
    train_seconds: float | None = None
    tokens: int | None = None
    train_flops: float | None = None
    hardware_flops_bound: float | None = None
    rework_kwh: float | None = None
    rework_g: float | None = None
    rework_seconds: float | None = None

    def document(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the fields whose names are in `names`, as JSON values."""
        values = vars(self) | {"intensity": self.intensity.document() if self.intensity else None}
        return {name: values[name] for name in names}

    def filled_from(self, other: "RunTotals") -> "RunTotals":
        """Return these totals, with the values of `other` in place of the fields that are None here."""
        return replace(other, **{name: value for name, value in vars(self).items() if value is not None})

    @property
    def has_rework(self) -> bool:
        """Whether the energy of repeated work is at least 0.05 mWh, so that it is displayed as more than 0."""
        return (self.rework_kwh or 0.0) >= 5e-8


_SUMS = ("seconds", "train_seconds", "tokens", "energy_kwh", "emissions_g", "rework_kwh", "rework_g", "rework_seconds", "idle_kwh")
REWORK = ("rework_kwh", "rework_g", "rework_seconds")
RANGES = ("energy_kwh_low", "energy_kwh_high", "emissions_g_low", "emissions_g_high")
AMOUNTS = ("seconds", "energy_kwh", *RANGES[:2], "emissions_g", *RANGES[2:], *REWORK[:2])
"""The fields of RunTotals that a row of a report has."""


def describe_sources(components: Mapping[str, str | None]) -> str:
    """Return as text how the energy of each component was obtained, such as `GPU counter, CPU model, RAM constant`."""
    return ", ".join(f"{part.upper()} {components[part]}" for part in ("gpu", "cpu", "ram") if components.get(part))


def joined(values: Iterable[Any]) -> str | None:
    """Return the distinct values as text, such as `counter, model`; None without any. A value that is itself such a text is split."""
    return ", ".join(dict.fromkeys(part for value in values if value for part in str(value).split(", "))) or None


def sum_totals(parts: Sequence[RunTotals]) -> RunTotals:
    """Sum the totals of runs. A field of the sum is None if no run has a value for it; a range is None also if a run with energy has no
    range. The sum has no place and no FLOPs.

    If the runs have different values of `carbon_status`, the sum is degraded.
    """
    metered = [part for part in parts if part.energy_kwh]
    outcomes = {part.carbon_status for part in parts if part.seconds is not None}
    ranges = {name: [getattr(part, name) for part in metered] for name in RANGES}
    provenance = [part.provenance or {} for part in metered]
    return RunTotals(
        **{name: _sum(getattr(part, name) for part in parts) for name in _SUMS},
        **{name: None if None in values else _sum(values) for name, values in ranges.items()},
        energy_kwh_parts=_sum_by_name(part.energy_kwh_parts for part in parts),
        carbon_status=outcomes.pop() if len(outcomes) == 1 else "degraded" if outcomes else "off",
        coverage=_mean(parts, "coverage", "seconds"),
        modelled_share=_mean(metered, "modelled_share", "energy_kwh"),
        provenance={name: joined(one.get(name) for one in provenance) for name in dict.fromkeys(chain(*provenance))} or None,
        pue=_same(part.pue for part in metered),
        intensity=_mean_intensity(metered),
        device_seconds=_sum_by_name(part.device_seconds for part in parts),
    )


def _mean_intensity(parts: Sequence[RunTotals]) -> Intensity | None:
    """Return the carbon intensity of all runs; if they have different intensities, their mean, weighted by energy."""
    intensities = [part.intensity or Intensity() for part in parts]
    if not any(part.intensity for part in parts):
        return None
    energy, emissions = (sum(getattr(part, name) or 0.0 for part in parts) for name in ("energy_kwh", "emissions_g"))
    same = _same(intensity.g_per_kwh for intensity in intensities)
    value = emissions / energy if same is None and energy else same
    names = [name for name in ("low_g_per_kwh", "high_g_per_kwh") if any(getattr(one, name) is not None for one in intensities)]
    ends: dict[str, Any] = {name: value * _mean_factor(parts, name) for name in names if value}
    return Intensity(
        g_per_kwh=value,
        **ends,
        source=joined(intensity.source for intensity in intensities),
        year=_same(intensity.year for intensity in intensities),
        kind=joined(intensity.kind for intensity in intensities),
    )


def _mean_factor(parts: Iterable[RunTotals], name: str) -> float:
    """Return the ratio of a limit of the intensity (the field `name`, such as low_g_per_kwh) to the intensity: the mean over the runs,
    weighted by emissions. A run without a range has the ratio 1.
    """
    pairs = []
    for part in parts:
        intensity = part.intensity or Intensity()
        mean, end = intensity.g_per_kwh, getattr(intensity, name)
        pairs.append((part.emissions_g or 0.0, end / mean if mean and end is not None else 1.0))
    total = sum(weight for weight, _ in pairs)
    return sum(weight * factor for weight, factor in pairs) / total if total else 1.0


def _same(values: Iterable[Any]) -> Any:
    different = [*dict.fromkeys(values)]
    return different[0] if len(different) == 1 else None


def _mean(parts: Iterable[RunTotals], name: str, weight: str) -> float | None:
    pairs = [(getattr(part, name), getattr(part, weight) or 0.0) for part in parts]
    total = sum(weight for _, weight in pairs)
    known = total and any(value is not None for value, _ in pairs)
    return round(sum((value or 0.0) * weight for value, weight in pairs) / total, 4) if known else None


def _sum_by_name(parts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    present = [values for values in parts if values]
    return {name: _sum(values.get(name) for values in present) for name in dict.fromkeys(chain(*present))} or None


def _sum(values: Iterable[Any]) -> Any:
    """Return the sum of the values that are not None; None if there are none. A sum of integers is exact; any other sum is
    rounded to 15 digits, so that 5.1 + 2.9 is 8.0.
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2 or all(isinstance(value, int) for value in numbers):
        return sum(numbers) if numbers else None
    return float(f"{math.fsum(numbers):.15g}")

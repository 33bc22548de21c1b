"""The meter's output (`Reading`), and the sums of one attempt from which it is computed (`Totals`). Units are in the names."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from tfkit.units import format_energy, format_mass

Status = Literal["ok", "starting", "degraded", "off"]
"""ok: the last reading succeeded. starting: there is no reading yet. off: the run is not metered. degraded: CodeCarbon failed, or an
attempt was not metered, so the energy is a lower bound."""


ENERGIES = ("energy_wh", "cpu_wh", "gpu_wh", "ram_wh", "emissions_g")
SUMS = ("seconds", *ENERGIES)
"""The fields of a Reading, and of a line of a ledger, that add up over attempts."""

SILENT_SECONDS = 10.0  # even an idle machine uses a milliwatt-hour in this time, so a later reading of no energy is an error


@dataclass(frozen=True)
class Reading:
    """The totals of a run up to now, including its earlier attempts."""

    energy_wh: float = 0.0
    emissions_g: float = 0.0
    power_w: float = 0.0  # mean since the previous reading
    seconds: float = 0.0  # wall time, whether the energy was measured or not
    status: Status = "off"
    place: str = ""  # "FRA, 56 g/kWh (...)"
    provenance: str = ""  # "CPU model, RAM constant"
    cpu_wh: float = 0.0  # this and the next two fields: the parts of energy_wh
    gpu_wh: float = 0.0
    ram_wh: float = 0.0
    failing: bool = False  # the reading is out of date, because CodeCarbon or its process has failed

    @property
    def outcome(self) -> str:
        """The `carbon_status` of a Footprint: `ok`, `degraded` (the energy is a lower bound), `failed` (there is no energy) or `off`."""
        if self.status == "off":
            return "off"
        if not self.energy_wh:
            return "failed"
        return "degraded" if self.status == "degraded" else "ok"

    @property
    def text(self) -> str:
        """The energy, the emissions and the place as text, such as `1.2 Wh, 195 mg CO2e (Germany, 344 g/kWh)`."""
        return f"{format_energy(self.energy_wh)}, {format_mass(self.emissions_g)} CO2e ({self.place})"


def add_readings(own: Reading, others: Iterable[Reading]) -> Reading:
    """Add the readings of other nodes of the run to `own`: energies, emissions and powers are summed; the time is the longest of all nodes.

    The status is that of `own`, or degraded if the status of another node is neither ok nor that of `own`.
    """
    for other in others:
        sums = {name: getattr(own, name) + getattr(other, name) for name in SUMS} | {"seconds": max(own.seconds, other.seconds)}
        status = own.status if other.status in ("ok", own.status) else "degraded"
        own = replace(own, **sums, power_w=own.power_w + other.power_w, status=status)
    return own


@dataclass(frozen=True)
class Totals:
    """The sums of one attempt since CodeCarbon's start, as CodeCarbon reports them. The energies include the PUE."""

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

"""The environmental impact in a model card: the five rows that ML CO2 Impact (https://mlco2.github.io/impact) proposes, and more rows."""

import re
from dataclasses import dataclass, field
from typing import Any

from tfkit.carbon.footprint import Intensity, Reading, RunTotals
from tfkit.run.lineage import Inherited
from tfkit.units import format_energy, format_mass, format_seconds

_UNKNOWN = "not stated"
_SMALLEST_GRAMS = 1e-4  # Python writes smaller numbers with an exponent, and the Hub reads 1.2e-05 as 1.2


@dataclass(frozen=True)
class CardImpact:
    """The energy and emissions of a training, as far as they are known when the card is written. The card omits unknown values."""

    reading: Reading
    hardware: str
    inherited: Inherited | None = None
    totals: RunTotals = field(default_factory=RunTotals)  # as in run.json; most of them are known only after the run

    def front(self, training_type: str) -> dict[str, Any]:
        """Return the fields of `co2_eq_emissions` in the Hub's metadata; {} if nothing, or less than 1e-4 g, was measured."""
        reading, grams = self.reading, self.reading.emissions_g
        if reading.status in ("off", "starting") or grams < _SMALLEST_GRAMS:
            return {}
        return {
            "emissions": round(grams, 4) if grams >= 1 else float(f"{grams:.4g}"),
            "source": "CodeCarbon via tfkit" + (f"; {reading.provenance}" if reading.provenance else ""),
            "training_type": training_type,
            "geographical_location": reading.place or "place unknown",
            "hardware_used": self.hardware,
        }

    def sentence(self) -> str:
        """Return a sentence with the energy and emissions in suitable units, or one that says that they are unknown."""
        reading = self.reading
        if reading.status == "off":
            return "Energy and emissions were not measured."
        if reading.energy_wh == 0:
            return "Energy and emissions could not be measured."
        least = "at least " if reading.status == "degraded" else ""
        basis = ", ".join(part for part in (reading.place, reading.provenance) if part)
        amounts = f"{format_energy(reading.energy_wh)} of electricity and emitted {format_mass(reading.emissions_g)} of CO2e"
        return f"Training took {least}{amounts}" + (f" ({basis})." if basis else ".")

    def rows(self) -> dict[str, str]:
        """Return the values of the table's rows by label, without unknown values; {} if nothing was measured."""
        reading, totals = self.reading, self.totals
        if reading.outcome not in ("ok", "degraded"):
            return {}
        least = "at least " if reading.outcome == "degraded" else ""
        seconds, grams, grid = totals.seconds or reading.seconds, reading.emissions_g, totals.intensity or Intensity()
        rows = {
            "hardware type": self.hardware,
            "hours used": f"{seconds / 3600:.3g} ({format_seconds(seconds)})",
            "cloud provider": _UNKNOWN,
            "compute region": reading.place.partition(", ")[0] if ", " in reading.place else "place unknown",
            "carbon emitted": f"{least}{format_mass(grams)} CO2e",
            "computation": f"{totals.train_flops:.3g} FLOP by the architecture" if totals.train_flops else "",
            "per million tokens": f"{format_mass(1e6 * grams / totals.tokens)} CO2e" if totals.tokens else "",
            "lost and done again": f"{format_mass(totals.rework_g)} CO2e of it" if totals.rework_g else "",
            "inherited": self._inherited(),
            "grid": f"{grid.g_per_kwh:.4g} g/kWh" + (f" ({grid.origin})" if grid.origin else "") if grid.g_per_kwh is not None else "",
            "PUE": f"{totals.pue:g}, included" if totals.pue is not None else "",
            "modelled": _modelled(reading, totals.modelled_share),
            "time measured": f"{totals.coverage:.1%}" if totals.coverage is not None else "",
        }
        return {label: value for label, value in rows.items() if value}

    def _inherited(self) -> str:
        """Return the emissions of the ancestors of this model as text; "" if it has no ancestors."""
        inherited = self.inherited
        if inherited is None or (inherited.emissions_g is None and not inherited.is_lower_bound):
            return ""
        if inherited.emissions_g is None:
            return "not known"
        least = "at least " if inherited.is_lower_bound else ""
        grams, total = format_mass(inherited.emissions_g), format_mass(inherited.emissions_g + self.reading.emissions_g)
        return f"{least}{grams} CO2e from the models behind this one; with this run {least}{total}"


def _modelled(reading: Reading, share: float | None) -> str:
    """Return the fraction of the energy that was modelled, not measured by a counter, as text; "" if it is unknown.

    `share`: the fraction in run.json, over all attempts. It is used if a component's energy was measured in one attempt and modelled in
    another (`CPU counter, model`); otherwise the fraction is computed from `reading`.
    """
    parts = {"CPU": reading.cpu_wh, "GPU": reading.gpu_wh, "RAM": reading.ram_wh}
    sources = re.findall(r"(CPU|GPU|RAM) (.+?)(?=, (?:CPU|GPU|RAM) |$)", reading.provenance)
    if not reading.energy_wh or not sources:
        return ""
    if share is None or not any(", " in source for _, source in sources):
        share = sum(parts[part] for part, source in sources if source != "counter") / reading.energy_wh
    return f"{min(share, 1.0):.0%} of the energy ({reading.provenance})"

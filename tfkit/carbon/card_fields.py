"""The emissions in a model card: the `co2_eq_emissions` block that the Hub reads, and a sentence for people."""

from typing import Any

from tfkit.carbon.reading import Reading
from tfkit.units import format_energy, format_mass

SMALLEST_GRAMS = 1e-4  # smaller numbers need an exponent, and the Hub reads 1.2e-05 as 1.2


def co2_block(reading: Reading, training_type: str, hardware: str) -> dict[str, Any]:
    """Return the value of `co2_eq_emissions`, in grams; {} if nothing was measured, or too little to write without an exponent.

    `training_type` is "pre-training" or "fine-tuning".
    """
    if reading.status in ("off", "starting") or reading.emissions_g < SMALLEST_GRAMS:
        return {}
    return {
        "emissions": _plain(reading.emissions_g),
        "source": "CodeCarbon via tfkit" + (f"; {reading.provenance}" if reading.provenance else ""),
        "training_type": training_type,
        "geographical_location": reading.place or "place unknown",
        "hardware_used": hardware,
    }


def co2_sentence(reading: Reading) -> str:
    """Return a sentence for the card's body, in suitable units; also without measured values."""
    if reading.status == "off":
        return "Energy and emissions were not measured."
    if reading.energy_wh == 0:
        return "Energy and emissions could not be measured."
    least = "at least " if reading.status == "degraded" else ""
    basis = ", ".join(part for part in (reading.place, reading.provenance) if part)
    amounts = f"{format_energy(reading.energy_wh)} of electricity and emitted {format_mass(reading.emissions_g)} of CO2e"
    return f"Training took {least}{amounts}" + (f" ({basis})." if basis else ".")


def _plain(grams: float) -> float:
    """Round to four significant digits or four decimals, whichever is finer: a float from 1e-4 to 1e16 is written without an exponent."""
    return round(grams, 4) if grams >= 1 else float(f"{grams:.4g}")

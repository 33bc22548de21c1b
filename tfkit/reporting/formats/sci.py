"""Software Carbon Intensity (ISO/IEC 21031:2024) of a training: ((E x I) + M) / R, here in grams per million trained tokens.

A location-based rate, without offsets. E x I are the measured emissions. M, the embodied emissions, are the device hours times
carbon.embodied_g_per_device_hour in the recipe; without it they are "not included", since no value is assumed.
"""

from typing import Any

from tfkit.reporting.formats.model_facts import BOUNDARY, ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts
from tfkit.run import strict_json

SCHEMA_VERSION = 1
_UNIT = 1_000_000  # tokens


def sci(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the document. Raises UsageError for a run that is not the training of one model."""
    return strict_json.finite(_document(describe_model(run, full=full)))


def _document(model: ModelFacts) -> dict[str, Any]:
    units = model.tokens / _UNIT if model.tokens else None
    amounts, embodied = model.amounts, _embodied(model)
    sums = (_with_embodied(getattr(amounts, f"emissions_g{end}"), embodied) for end in ("", "_low", "_high"))
    likely, low, high = (None if grams is None or not units else grams / units for grams in sums)
    gaps = [gap for gap in model.gaps() if embodied is None or not gap.startswith("embodied")]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model.name,
        "run_id": model.run_id,
        "energy_kwh": amounts.energy_kwh,
        "pue": model.pue,
        "pue_included": None if model.pue is None else True,
        "intensity_g_per_kwh": model.intensity.get("g_per_kwh"),
        "intensity_source": model.intensity.get("source"),
        "intensity_year": model.intensity.get("year"),
        "intensity_kind": model.intensity.get("kind"),
        "emissions_g": amounts.emissions_g,
        "embodied_g": embodied,
        "embodied_device_hours": model.device_hours,
        "embodied_source": "not included" if embodied is None else model.embodied_source,
        "functional_unit": "million trained tokens",
        "functional_units": units,
        "sci_g_per_unit": likely,
        "low": low,
        "high": high,
        "whole_training_g": _with_embodied(amounts.emissions_g, embodied),
        "boundary": BOUNDARY,
        "provenance": dict(model.provenance),
        "gaps": gaps,
        **({"places": dict(model.places)} if model.places else {}),
    }


def _embodied(model: ModelFacts) -> float | None:
    """Return the embodied emissions of the training in grams; None without a value per hour, or if the device hours are not known."""
    if model.embodied_g_per_device_hour is None or model.device_hours is None:
        return None
    return model.embodied_g_per_device_hour * model.device_hours


def _with_embodied(grams: float | None, embodied: float | None) -> float | None:
    return None if grams is None else grams + (embodied or 0.0)

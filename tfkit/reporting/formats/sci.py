"""Software Carbon Intensity (ISO/IEC 21031:2024) of a training: ((E x I) + M) / R, here in grams per million trained tokens.

A rate, by location, without offsets. E x I are the measured emissions. M, the embodied emissions, is "not included": no figure of it is
known.
"""

from typing import Any

from tfkit.reporting.formats.model_facts import BOUNDARY, ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts
from tfkit.run import strict_json

SCHEMA_VERSION = 1
_UNIT = 1_000_000  # tokens


def sci(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the document. Raises UsageError for a run that is no training of one model."""
    return strict_json.finite(_document(describe_model(run, full=full)))


def _document(model: ModelFacts) -> dict[str, Any]:
    units = model.tokens / _UNIT if model.tokens else None
    amounts = model.amounts
    rates = {
        name: _rate(getattr(amounts, f"emissions_g{end}"), units) for name, end in (("likely", ""), ("low", "_low"), ("high", "_high"))
    }
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
        "embodied_g": None,
        "embodied_source": "not included",
        "functional_unit": "million trained tokens",
        "functional_units": units,
        "sci_g_per_unit": rates["likely"],
        "low": rates["low"],
        "high": rates["high"],
        "whole_training_g": amounts.emissions_g,
        "boundary": BOUNDARY,
        "provenance": dict(model.provenance),
        "gaps": model.gaps(),
        **({"places": dict(model.places)} if model.places else {}),
    }


def _rate(grams: float | None, units: float | None) -> float | None:
    return grams / units if grams is not None and units else None

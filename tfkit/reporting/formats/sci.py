"""Software Carbon Intensity (ISO/IEC 21031:2024) of a training: ((E x I) + M) / R, in grams per million trained tokens (R).

Emissions are location-based, without offsets. E x I, energy times carbon intensity, are the measured emissions. M, the embodied emissions,
are the device hours times carbon.embodied_g_per_device_hour; if the recipe lacks this field, no value is assumed: M is "not included".
"""

from typing import Any

from tfkit.carbon.totals import wall_seconds
from tfkit.reporting.formats.model_facts import BOUNDARY, ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts, number_of, text_of
from tfkit.run import strict_json

SCHEMA_VERSION = 1
_UNIT = 1_000_000  # tokens


def sci(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the SCI of a training and its terms as a JSON document. Raises UsageError for a run that is not the training of one model."""
    model = describe_model(run, full=full)
    units = model.tokens / _UNIT if model.tokens else None
    amounts, hours, rate = run.amounts, _device_hours(model), number_of(run.recipe, "carbon.embodied_g_per_device_hour")
    embodied = None if rate is None or hours is None else rate * hours
    emissions = (amounts.emissions_g, amounts.emissions_g_low, amounts.emissions_g_high)
    sums = [None if grams is None else grams + (embodied or 0.0) for grams in emissions]
    likely, low, high = (None if grams is None or not units else grams / units for grams in sums)
    document = {
        "schema_version": SCHEMA_VERSION,
        "model": run.name,
        "run_id": run.run_id,
        "energy_kwh": amounts.energy_kwh,
        "pue": model.run.measurement.pue,
        "pue_included": None if model.run.measurement.pue is None else True,
        "intensity_g_per_kwh": model.intensity.g_per_kwh,
        "intensity_source": model.intensity.source,
        "intensity_year": model.intensity.year,
        "intensity_kind": model.intensity.kind,
        "emissions_g": amounts.emissions_g,
        "embodied_g": embodied,
        "embodied_device_hours": hours,
        "embodied_source": "not included" if embodied is None else text_of(run.recipe, "carbon.embodied_source"),
        "functional_unit": "million trained tokens",
        "functional_units": units,
        "sci_g_per_unit": likely,
        "low": low,
        "high": high,
        "whole_training_g": sums[0],
        "boundary": BOUNDARY,
        "provenance": model.provenance,
        "gaps": [gap for gap in model.gaps() if embodied is None or not gap.startswith("embodied")],
        **({"places": dict(model.places)} if model.places else {}),
    }
    return strict_json.finite(document)


def _device_hours(model: ModelFacts) -> float | None:
    """Return the sum of the hours of all GPUs or, for a training on CPUs, of all machines; None if it is not known."""
    run = model.run
    if run.recorded.device == "cpu":
        seconds = run.amounts.seconds
        of_other_nodes = sum(attempt.sums["seconds"] for attempt in run.attempts) - sum(wall_seconds(run.attempts).values())
        return None if seconds is None else (seconds + of_other_nodes) / 3600
    processors = {text_of(attempt.machine.get("record"), "cpu_model") for attempt in run.attempts}
    gpu_seconds = [seconds for name, seconds in (model.run.measurement.device_seconds or {}).items() if name not in processors]
    return sum(gpu_seconds) / 3600 if gpu_seconds else None

"""A CycloneDX 1.6 bill of materials, with the model as a component (https://cyclonedx.org/docs/1.6/json/).

The energy in kWh and CO2e in tonnes of each activity are in modelCard.considerations.environmentalConsiderations. The energy provider,
which the schema requires, is "unknown".
"""

import re
from typing import Any

from tfkit.reporting.formats.model_facts import ModelFacts, decimal, describe_model
from tfkit.reporting.run_facts import RunFacts
from tfkit.run import strict_json
from tfkit.run.lineage import Ancestor

_ACTIVITIES = {  # activities of CycloneDX by phase of a run; any other phase belongs to the training
    "tokenize": "data-preparation",
    "evaluate": "validation",
    "predict": "validation",
    "embed": "inference",
    "generate": "inference",
}


def cyclonedx(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the bill of materials of a run's model. Raises UsageError for a run that is not the training of one model."""
    model = describe_model(run, full=full)
    document: dict[str, Any] = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", run.run_id or ""):
        document["serialNumber"] = f"urn:uuid:{run.run_id}"
    tool = {"type": "application", "name": "tfkit", "version": model.versions.get("tfkit", "unknown")}
    document["metadata"] = {"tools": {"components": [tool]}} | ({"timestamp": model.ended} if model.ended else {})
    document["components"] = [_component(model)]
    return strict_json.finite(document)


def _component(model: ModelFacts) -> dict[str, Any]:
    files = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256}]} for name, sha256 in sorted(model.weights.items())
    ]
    ancestors = [_ancestor(parent) for parent in model.parents]
    return {
        "type": "machine-learning-model",
        "bom-ref": model.run.run_id or model.run.name,
        "name": model.run.name,
        "version": model.version or "no checkpoint",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": model.approach},
                "task": model.objective or "unknown",
                "architectureFamily": "Transformer",
                "modelArchitecture": model.architecture or "unknown",
                "datasets": [{"type": "dataset", "name": source.name} for source in model.data],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [{"type": name, "value": f"{value:.6g}"} for name, value in model.metrics.items()]
            },
            "considerations": {
                "environmentalConsiderations": {"energyConsumptions": _energy(model), "properties": _properties(_footprint(model))}
            },
        },
        **({"components": files} if files else {}),
        **({"pedigree": {"ancestors": ancestors}} if ancestors else {}),
    }


def _ancestor(ancestor: Ancestor) -> dict[str, Any]:
    facts = {
        "roles": ", ".join(ancestor.roles),
        "content SHA-256": ancestor.sha256,
        "energy in kWh": ancestor.energy_kwh,
        "emissions in g": ancestor.emissions_g,
    }
    return {"type": "machine-learning-model", "name": ancestor.name, "properties": _properties(facts)}


def _energy(model: ModelFacts) -> list[dict[str, Any]]:
    if model.run.amounts.energy_kwh is None:
        return []
    training = "training" if model.training == "pre-training" else "fine-tuning"
    sums: dict[str, tuple[float, float]] = {}
    for name, (kwh, grams) in model.phases.items():
        activity = _ACTIVITIES.get(name, training)
        energy, emissions = sums.get(activity, (0.0, 0.0))
        sums[activity] = energy + kwh, emissions + grams
    return [_consumption(activity, *amounts, model) for activity, amounts in sums.items()]


def _consumption(activity: str, energy_kwh: float, grams: float, model: ModelFacts) -> dict[str, Any]:
    energy = {"value": energy_kwh, "unit": "kWh"}
    country = {"description": f"the grid of {model.country}"} if model.country else {}
    provider = {"organization": {"name": "unknown"}, "energySource": "unknown", "energyProvided": energy} | country
    return {
        "activity": activity,
        "energyProviders": [provider],
        "activityEnergyCost": energy,
        "co2CostEquivalent": {"value": grams * 1e-6, "unit": "tCO2eq"},
        "properties": _properties({"provenance": model.measured, "lower bound": "yes" if model.run.is_lower_bound else "no"}),
    }


def _footprint(model: ModelFacts) -> dict[str, Any]:
    """Return the facts for which CycloneDX has no field of its own, by the name of their property, without the prefix `tfkit:`."""
    amounts = model.run.amounts
    devices = {f"device seconds: {name}": f"{seconds:.0f}" for name, seconds in (model.run.measurement.device_seconds or {}).items()}
    return {
        "parameters": model.parameters,
        "tokens": model.tokens,
        "computation in FLOP": None if model.flops is None else f"{model.flops:.3g}",
        "computation, method": model.flops_basis,
        "wall seconds": None if amounts.seconds is None else f"{amounts.seconds:.0f}",
        **devices,
        "energy in kWh, low": amounts.energy_kwh_low,
        "energy in kWh, high": amounts.energy_kwh_high,
        "repeated work in kWh": amounts.rework_kwh,
        "PUE, included": model.run.measurement.pue,
        "intensity in g/kWh": model.intensity.g_per_kwh,
        "intensity, source": model.intensity.source,
        "inherited emissions in g": model.ancestry.sums.emissions_g,
        **{f"gap {number}": gap for number, gap in enumerate(model.gaps(), 1)},
        **model.places,
    }


def _properties(facts: dict[str, Any]) -> list[dict[str, str]]:
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    texts = {name: decimal(value, 6) if isinstance(value, float) else str(value) for name, value in known.items()}
    return [{"name": f"tfkit:{name}", "value": text} for name, text in texts.items()]

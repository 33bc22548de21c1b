"""An SPDX 3.0.1 document (JSON-LD), with the model as an AIPackage and its energy in ai_energyConsumption.

https://spdx.github.io/spdx-spec/v3.0.1/model/AI/Classes/EnergyConsumption. The profile `ai` also requires the supplier and the download
location, which only a publisher knows. Therefore the document does not claim conformance to `ai`, and a comment names these two fields.
"""

import re
import uuid
from typing import Any

from tfkit.reporting.formats.model_facts import ModelFacts, decimal, describe_model
from tfkit.reporting.run_facts import RunFacts

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_INFO = "_:creationinfo"
_UNKNOWN_TIME = "1970-01-01T00:00:00Z"


def spdx(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the SPDX document of a run's model. Raises UsageError for a run that is not the training of one model."""
    model = describe_model(run, full=full)
    prefix = f"urn:uuid:{_identity(model)}"
    created = _time(model.ended or model.started) or _UNKNOWN_TIME
    package = _package(model, f"{prefix}#model", created)
    data = [
        _element("dataset_DatasetPackage", f"{prefix}#data-{number}", source.name) | {"dataset_datasetType": ["text"]}
        for number, source in enumerate(model.data, 1)
    ]
    parents = []
    for number, parent in enumerate(model.parents, 1):
        comment = f"role: {', '.join(parent.roles)}; content SHA-256: {parent.sha256}"
        parents.append(_element("ai_AIPackage", f"{prefix}#parent-{number}", parent.name, comment))
    links = [
        _relation(f"{prefix}#trained-on", package, "trainedOn", data),
        _relation(f"{prefix}#made-from", package, "descendantOf", parents),
    ]
    elements = [package, *data, *parents, *(link for link in links if link["to"])]
    agent = _element("SoftwareAgent", f"{prefix}#tfkit", f"tfkit {model.versions.get('tfkit', '')}".strip())
    document = _element("SpdxDocument", f"{prefix}#document", f"bill of materials of {model.run.name}")
    document |= {"profileConformance": ["core", "software"], "rootElement": [package["spdxId"]]}
    document["element"] = [item["spdxId"] for item in (agent, *elements)]
    info = {"type": "CreationInfo", "@id": _INFO, "specVersion": "3.0.1", "created": created, "createdBy": [agent["spdxId"]]}
    return {"@context": CONTEXT, "@graph": [info, agent, document, *elements]}


def _package(model: ModelFacts, identity: str, created: str) -> dict[str, Any]:
    places = [f"{name}: {value}" for name, value in model.places.items()]
    comment = "; ".join(["the supplier and the download location are to be stated by the publisher", *places])
    package = _element("ai_AIPackage", identity, model.run.name, comment)
    package |= {"software_primaryPurpose": "model", "software_packageVersion": model.version or "no checkpoint", "releaseTime": created}
    if model.weights:
        package["verifiedUsing"] = [
            {"type": "Hash", "algorithm": "sha256", "hashValue": sha256, "comment": name} for name, sha256 in sorted(model.weights.items())
        ]
    package["ai_typeOfModel"] = [kind for kind in ("Transformer", model.architecture, model.objective) if kind]
    package["ai_informationAboutTraining"] = _training(model)
    package["ai_hyperparameter"] = [_entry(name, value) for name, value in model.settings.items()]
    package["ai_metric"] = [_entry(name, f"{value:.6g}") for name, value in model.metrics.items()]
    package["ai_limitation"] = "; ".join(model.gaps())
    if model.run.amounts.energy_kwh is not None:
        kind = {"type": "ai_EnergyConsumptionDescription", "ai_energyUnit": "kilowattHour"}
        energies = [{**kind, "ai_energyQuantity": decimal(energy, 12)} for energy, _ in model.phases.values()]
        role = "training" if model.training == "pre-training" else "finetuning"
        package["ai_energyConsumption"] = {"type": "ai_EnergyConsumption", f"ai_{role}EnergyConsumption": energies}
    return package


def _training(model: ModelFacts) -> str:
    amounts, intensity = model.run.amounts, model.intensity.g_per_kwh
    parts = [
        model.training,
        f"{model.run.listed.steps:,} steps" if model.run.listed.steps is not None else "",
        f"{model.tokens:,} tokens" if model.tokens is not None else "",
        f"{model.parameters:,} parameters" if model.parameters is not None else "",
        f"{model.flops:.3g} FLOP ({model.flops_basis})" if model.flops is not None else "",
        f"{amounts.seconds:,.0f} seconds" if amounts.seconds is not None else "",
        f"{decimal(amounts.emissions_g)} g CO2e at {intensity} g/kWh" if amounts.emissions_g is not None else "emissions not measured",
        f"energy: {model.measured}" if model.measured else "",
        f"PUE {model.run.measurement.pue:g}, included" if model.run.measurement.pue is not None else "",
    ]
    return "; ".join(part for part in parts if part)


def _relation(identity: str, source: dict[str, Any], kind: str, targets: list[dict[str, Any]]) -> dict[str, Any]:
    ends = {"from": source["spdxId"], "relationshipType": kind, "to": [target["spdxId"] for target in targets]}
    return {"type": "Relationship", "spdxId": identity, "creationInfo": _INFO, **ends}


def _element(kind: str, identity: str, name: str, comment: str = "") -> dict[str, Any]:
    about = {"comment": comment} if comment else {}
    return {"type": kind, "spdxId": identity, "creationInfo": _INFO, "name": name, **about}


def _entry(name: str, value: str) -> dict[str, str]:
    return {"type": "DictionaryEntry", "key": name, "value": value}


def _identity(model: ModelFacts) -> str:
    """Return the run id if it is a UUID, or else a UUID derived from the run id and the name of the run."""
    try:
        return str(uuid.UUID(model.run.run_id or ""))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tfkit:{model.run.run_id}:{model.run.name}"))


def _time(text: str | None) -> str | None:
    """Convert an ISO 8601 time in UTC to the format of SPDX; None if it is not such a time."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:\+00:00|Z)", text or "")
    return f"{match[1]}Z" if match else None

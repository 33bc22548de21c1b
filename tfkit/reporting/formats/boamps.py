"""A BoAmps report (https://github.com/Boavizta/BoAmps) on a training: its task, energy, hardware and place, for Boavizta's collection."""

from typing import Any

from tfkit.errors import UsageError
from tfkit.reporting.formats.model_facts import ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts, text_of
from tfkit.run import strict_json

_FAMILIES = {  # BoAmps's task families by kind of objective; any other kind is textGeneration
    "classification": "textClassification",
    "multi_label": "textClassification",
    "tagging": "tokenClassification",
    "question_answering": "questionAnswering",
    "multiple_choice": "multipleChoice",
    "reward": "rewardModelling",
    "text_to_text": "textToText",
}
_TRAINING_TYPES = {  # BoAmps's training types by `ModelFacts.approach`
    "supervised": "supervisedLearning",
    "self-supervised": "selfSupervisedLearning",
    "reinforcement-learning": "reinforcementLearning",
}
_HIGH, _MEDIUM = 0.10, 0.25  # the largest relative errors of measurements of high and of medium quality


def boamps(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return a run's BoAmps report. Raises UsageError for a run that is not the training of one model, or whose energy was not measured."""
    model = describe_model(run, full=full)
    if run.amounts.energy_kwh is None:
        raise UsageError(f"{run.path}: its energy was not measured, and a BoAmps report requires it; train with carbon.enabled=true")
    accuracy = model.metrics.get("accuracy", -1.0)
    place = {"country": model.country, "powerSourceCarbonIntensity": model.intensity.g_per_kwh}
    time, status = _time(model.ended or model.started), "final" if run.status == "finished" else "draft"
    header = {"reportId": run.run_id, "reportDatetime": time, "reportStatus": status}
    kinds = {"public" if source.is_public else "private" for source in model.data}
    origin = kinds.pop() if len(kinds) == 1 else "other" if kinds else None
    document: dict[str, Any] = {
        **({"header": _known(header)} if time else {}),
        "task": {
            "taskStage": "training" if model.training == "pre-training" else "finetuning",
            "taskFamily": _FAMILIES.get(model.objective, "textGeneration"),
            "nbRequest": 0,
            "algorithms": [_algorithm(model)],
            "dataset": [_known({"dataUsage": "input", "dataType": "token", "dataQuantity": model.tokens, "source": origin})],
            **({"measuredAccuracy": accuracy} if 0 <= accuracy <= 1 else {}),
            "taskDescription": "; ".join([*(f"{name}: {value}" for name, value in model.places.items()), *model.gaps()]),
        },
        "measures": [_measure(model)],
        "system": {"os": str(model.machine.get("os") or "unknown").partition("-")[0]},
        "software": _known({"language": "python", "version": model.versions.get("python")}),
        "infrastructure": {"infraType": "other", "components": _components(model)},
        **({"environment": _known(place)} if model.country else {}),
        **_known({"quality": _quality(model)}),
    }
    return strict_json.finite(document)


def _algorithm(model: ModelFacts) -> dict[str, Any]:
    base = next((parent.name for parent in model.parents if "start" in parent.roles), None)
    fields = {
        "trainingType": "transferLearning" if model.training == "fine-tuning" else _TRAINING_TYPES[model.approach],
        "algorithmType": "llm" if _FAMILIES.get(model.objective) is None else "neural network",
        "algorithmName": model.architecture or "transformers",
        "foundationModelName": base,
        "parametersNumber": None if model.parameters is None else model.parameters / 1e9,
        "framework": "tfkit",
        "frameworkVersion": model.versions.get("tfkit"),
        "layersNumber": model.layers,
        "optimizer": model.settings.get("optimizer.kind"),
        "quantization": model.settings.get("training.precision"),
    }
    return _known(fields)


def _measure(model: ModelFacts) -> dict[str, Any]:
    phases = model.run.attempts[-1].phases.values() if model.run.attempts else ()
    utilization = max(phases, key=lambda phase: phase.ended_at).utilization if phases else {}
    fields = {
        "measurementMethod": "codecarbon",
        "version": model.versions.get("codecarbon"),
        "cpuTrackingMode": model.provenance.get("cpu"),
        "gpuTrackingMode": model.provenance.get("gpu"),
        "averageUtilizationCpu": _fraction(utilization.get("cpu_percent")),
        "averageUtilizationGpu": _fraction(utilization.get("gpu_percent")),
        "powerConsumption": model.run.amounts.energy_kwh,
        "measurementDuration": model.run.amounts.seconds,
        "measurementDateTime": _time(model.started),
    }
    return _known(fields)


def _components(model: ModelFacts) -> list[dict[str, Any]]:
    """Return the processor, GPUs and memory. The schema requires a processor: if it is unknown, one without a name is included."""
    record = model.machine
    cpu = _known({"componentName": text_of(record, "cpu_model"), "componentType": "cpu", "nbComponent": 1})
    gpus, memory = record.get("gpu_count"), record.get("ram_total_size")
    gpu = _known({"componentName": text_of(record, "gpu_model"), "componentType": "gpu", "nbComponent": gpus})
    ram = {"componentType": "ram", "nbComponent": 1, "memorySize": memory}
    return [cpu, *([gpu] if type(gpus) is int and gpus > 0 else []), *([ram] if isinstance(memory, float) else [])]


def _quality(model: ModelFacts) -> str | None:
    """Return the quality of the energy's measurement, by the largest relative error within the energy's range; None without a range."""
    energy, low, high = (getattr(model.run.amounts, name) for name in ("energy_kwh", "energy_kwh_low", "energy_kwh_high"))
    if not energy or low is None or high is None:
        return None
    error = max(energy - low, high - energy) / energy
    return "high" if error <= _HIGH else "medium" if error <= _MEDIUM else "low"


def _fraction(percent: float | None) -> float | None:
    return percent / 100 if percent is not None and 0 < percent <= 100 else None


def _time(text: str | None) -> str | None:
    """Convert an ISO 8601 time in UTC to the format of BoAmps."""
    return text[:19].replace("T", " ") if text else None


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

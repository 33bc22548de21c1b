"""A BoAmps report (https://github.com/Boavizta/BoAmps) on a training: its task, energy, hardware and place, as Boavizta collects them."""

from typing import Any

from tfkit.errors import UsageError
from tfkit.reporting.formats.model_facts import ModelFacts, describe_model
from tfkit.reporting.run_facts import RunFacts
from tfkit.run import strict_json

_FAMILIES = {
    "classification": "textClassification",
    "multi_label": "textClassification",
    "tagging": "tokenClassification",
    "question_answering": "questionAnswering",
    "multiple_choice": "multipleChoice",
    "reward": "rewardModelling",
    "text_to_text": "textToText",
}
_HIGH, _MEDIUM = 0.10, 0.25  # the largest relative errors of high and medium quality in BoAmps


def boamps(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the document. Raises UsageError for a run that is not the training of one model, or whose energy was not measured."""
    model = describe_model(run, full=full)
    if model.amounts.energy_kwh is None:
        raise UsageError(f"{run.path}: its energy was not measured, and a BoAmps report requires it; train with carbon.enabled=true")
    document: dict[str, Any] = {
        "header": _known(
            {
                "reportId": model.run_id,
                "reportDatetime": _time(model.ended or model.started),
                "reportStatus": "final" if model.status == "finished" else "draft",
            }
        ),
        "task": {
            "taskStage": "training" if model.training == "pre-training" else "finetuning",
            "taskFamily": _FAMILIES.get(model.objective, "textGeneration"),
            "nbRequest": 0,
            "algorithms": [_algorithm(model)],
            "dataset": [_known({"dataUsage": "input", "dataType": "token", "dataQuantity": model.tokens, "source": _source(model)})],
            **_known({"measuredAccuracy": _accuracy(model)}),
            "taskDescription": "; ".join([*(f"{name}: {value}" for name, value in model.places.items()), *model.gaps()]),
        },
        "measures": [_measure(model)],
        "system": {"os": str(model.machine.get("os") or "unknown").partition("-")[0]},
        "software": _known({"language": "python", "version": model.versions.get("python")}),
        "infrastructure": {"infraType": "other", "components": _components(model)},
        **({"environment": _environment(model)} if model.country else {}),
        **_known({"quality": _quality(model)}),
    }
    if "reportDatetime" not in document["header"]:
        del document["header"]
    return strict_json.finite(document)


def _algorithm(model: ModelFacts) -> dict[str, Any]:
    base = next((parent.name for parent in model.parents if "start" in parent.roles), None)
    return _known(
        {
            "trainingType": "transferLearning" if model.training == "fine-tuning" else "selfSupervisedLearning",
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
    )


def _measure(model: ModelFacts) -> dict[str, Any]:
    return _known(
        {
            "measurementMethod": "codecarbon",
            "version": model.versions.get("codecarbon"),
            "cpuTrackingMode": model.provenance.get("cpu"),
            "gpuTrackingMode": model.provenance.get("gpu"),
            "averageUtilizationCpu": _fraction(model.utilization.get("cpu_percent")),
            "averageUtilizationGpu": _fraction(model.utilization.get("gpu_percent")),
            "powerConsumption": model.amounts.energy_kwh,
            "measurementDuration": model.amounts.seconds,
            "measurementDateTime": _time(model.started),
        }
    )


def _components(model: ModelFacts) -> list[dict[str, Any]]:
    """Return the processor, GPUs and memory; an unknown processor without a name, since there must be one."""
    record = model.machine
    cpu = _known({"componentName": _text(record.get("cpu_model")), "componentType": "cpu", "nbComponent": 1})
    gpus = record.get("gpu_count")
    gpu = _known({"componentName": _text(record.get("gpu_model")), "componentType": "gpu", "nbComponent": gpus})
    memory = record.get("ram_total_size")
    ram = {"componentType": "ram", "nbComponent": 1, "memorySize": memory}
    return [cpu, *([gpu] if type(gpus) is int and gpus > 0 else []), *([ram] if isinstance(memory, float) else [])]


def _environment(model: ModelFacts) -> dict[str, Any]:
    return _known({"country": model.country, "powerSourceCarbonIntensity": model.intensity.get("g_per_kwh")})


def _quality(model: ModelFacts) -> str | None:
    """Return the quality of the energy, by the largest error that its range allows; None without a range."""
    energy, low, high = (getattr(model.amounts, name) for name in ("energy_kwh", "energy_kwh_low", "energy_kwh_high"))
    if not energy or low is None or high is None:
        return None
    error = max(energy - low, high - energy) / energy
    return "high" if error <= _HIGH else "medium" if error <= _MEDIUM else "low"


def _source(model: ModelFacts) -> str | None:
    kinds = {"public" if source.is_public else "private" for source in model.data}
    return kinds.pop() if len(kinds) == 1 else "other" if kinds else None


def _accuracy(model: ModelFacts) -> float | None:
    accuracy = model.metrics.get("accuracy")
    return accuracy if accuracy is not None and 0 <= accuracy <= 1 else None


def _fraction(percent: float | None) -> float | None:
    return percent / 100 if percent is not None and 0 < percent <= 100 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(text: str | None) -> str | None:
    """Return a time in the format of BoAmps, in UTC."""
    return text[:19].replace("T", " ") if text else None


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

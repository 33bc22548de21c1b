"""A BoAmps report (https://github.com/Boavizta/BoAmps): task, measure, hardware and place of a training, as Boavizta collects them."""

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
    "sequence_to_sequence": "textToText",
    "text_to_text": "textToText",
}
_HIGH, _MEDIUM = 0.10, 0.25  # the errors that BoAmps calls high and medium quality


def boamps(run: RunFacts, *, full: bool) -> dict[str, Any]:
    """Return the document. Raises UsageError for a run that is no training of one model, or was not measured: a report needs an energy."""
    model = describe_model(run, full=full)
    if model.amounts.energy_kwh is None:
        raise UsageError(f"{run.path}: its energy was not measured, and BoAmps has no report without; train with carbon.enabled=true")
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
    parent = next((one.name for one in model.parents if "start" in one.roles), None)
    return _known(
        {
            "trainingType": "transferLearning" if model.training == "fine-tuning" else "selfSupervisedLearning",
            "algorithmType": "llm" if _FAMILIES.get(model.objective) is None else "neural network",
            "algorithmName": model.architecture or "transformers",
            "foundationModelName": parent,
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
    """Return processor, GPUs and memory; a component that is not known is a CPU of unknown name, because there was one."""
    record = model.machine
    cpu = _known({"componentName": _text(record.get("cpu_model")), "componentType": "cpu", "nbComponent": 1})
    gpus = record.get("gpu_count")
    board = _known({"componentName": _text(record.get("gpu_model")), "componentType": "gpu", "nbComponent": gpus})
    memory = record.get("ram_total_size")
    ram = {"componentType": "ram", "nbComponent": 1, "memorySize": memory}
    return [cpu, *([board] if type(gpus) is int and gpus > 0 else []), *([ram] if isinstance(memory, float) else [])]


def _environment(model: ModelFacts) -> dict[str, Any]:
    return _known({"country": model.country, "powerSourceCarbonIntensity": model.intensity.get("g_per_kwh")})


def _quality(model: ModelFacts) -> str | None:
    """Return the grade of the range: half its width against the energy."""
    energy, low, high = (getattr(model.amounts, name) for name in ("energy_kwh", "energy_kwh_low", "energy_kwh_high"))
    if not energy or low is None or high is None:
        return None
    error = max(energy - low, high - energy) / energy
    return "high" if error <= _HIGH else "medium" if error <= _MEDIUM else "low"


def _source(model: ModelFacts) -> str | None:
    kinds = {"public" if one.is_public else "private" for one in model.data}
    return kinds.pop() if len(kinds) == 1 else "other" if kinds else None


def _accuracy(model: ModelFacts) -> float | None:
    found = model.metrics.get("accuracy")
    return found if found is not None and 0 <= found <= 1 else None


def _fraction(percent: float | None) -> float | None:
    return percent / 100 if percent is not None and 0 < percent <= 100 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(text: str | None) -> str | None:
    """Return a time as BoAmps writes it, in UTC."""
    return text[:19].replace("T", " ") if text else None


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}

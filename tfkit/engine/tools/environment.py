"""Describe the environment: versions, processor, threads, devices, cache and forecasts. This also works if torch is not installed."""

import platform
from typing import Any

from tfkit import __version__
from tfkit.errors import TfkitError
from tfkit.run.machine import machine_name, processor, usable_cores, version

LIBRARIES = (
    *("torch", "numpy", "tokenizers", "datasets", "safetensors"),
    *("huggingface-hub", "codecarbon", "pydantic", "tensorboard", "transformers"),
)


def describe_environment() -> dict[str, Any]:
    """Return the document of `tfkit env --json`, which includes the median errors of this machine's forecasts of time and energy."""
    from tfkit.data.store.folder_cache import cache_folder, cache_size
    from tfkit.engine.planning.forecast_history import NAME, median_errors

    cpu, machine, devices = processor(), machine_name(), _devices()
    try:
        folder = cache_folder()
        cache: dict[str, Any] = {"folder": str(folder), "bytes": cache_size(), "error": None}
        file: str | None = str(folder / NAME)
    except TfkitError as error:  # the error is part of the report
        cache, file = {"folder": None, "bytes": None, "error": str(error)}, None
    return {
        "schema_version": 1,
        "tfkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": {"name": cpu["name"], "bf16": None if cpu["bf16"] is None else bool(cpu["bf16"])},
        "threads": usable_cores(),
        "devices": [*devices],
        "cache": cache,
        "forecasts": {"file": file, "machine": machine, **median_errors({machine, *devices.values()})},
    }


def _devices() -> dict[str, str]:
    """Return the devices, each with its name in forecasts.jsonl, the history of forecasts; empty if torch is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    from tfkit.engine.planning.machine_speed import device_name

    devices = {"cpu": device_name(torch.device("cpu"))}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index} {torch.cuda.get_device_name(index)}"] = device_name(torch.device("cuda", index))
    if torch.backends.mps.is_available():
        devices["mps"] = device_name(torch.device("mps"))
    return devices

"""The environment of the commands: versions, processor, threads, devices and the cache. torch need not be installed."""

import platform
from pathlib import Path
from typing import Any

from tfkit import __version__
from tfkit.errors import TfkitError
from tfkit.run.machine import machine_name, processor, usable_cores, version

LIBRARIES = (
    *("torch", "numpy", "tokenizers", "datasets", "safetensors"),
    *("huggingface-hub", "codecarbon", "pydantic", "tensorboard", "transformers"),
)


def describe_environment() -> dict[str, Any]:
    """Return the document of `tfkit env --json`, with the file of forecasts and their median errors of time and energy so far."""
    from tfkit.engine.planning.forecast_history import NAME, median_errors

    cpu, cache, machine = processor(), _cache(), machine_name()
    file = None if cache["folder"] is None else str(Path(cache["folder"], NAME))  # the field `cache` has the error
    return {
        "schema_version": 1,
        "tfkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": {"name": cpu["name"], "bf16": None if cpu["bf16"] is None else bool(cpu["bf16"])},
        "threads": usable_cores(),
        "devices": _devices(),
        "cache": cache,
        "forecasts": {"file": file, "machine": machine, **median_errors(machine)},
    }


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    devices = ["cpu"]
    devices += [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _cache() -> dict[str, Any]:
    from tfkit.data.store.folder_cache import cache_folder, cache_size

    try:
        return {"folder": str(cache_folder()), "bytes": cache_size(), "error": None}
    except TfkitError as error:  # the error is part of the report
        return {"folder": None, "bytes": None, "error": str(error)}

"""tfkit env: what a bug report needs, and what decides the speed here."""

import platform
from typing import Any

from tfkit import __version__, console
from tfkit.cli import options
from tfkit.run.machine import processor, usable_cores, version
from tfkit.units import format_bytes

LIBRARIES = (
    "torch",
    "numpy",
    "tokenizers",
    "datasets",
    "safetensors",
    "huggingface-hub",
    "codecarbon",
    "pydantic",
    "tensorboard",
    "transformers",
)


def env(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show versions, processor and its bf16, threads, devices, caches and their size."""
    found = processor()
    document = {
        "schema_version": 1,
        "tfkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": {"name": found["name"], "bf16": None if found["bf16"] is None else bool(found["bf16"])},
        "threads": usable_cores(),
        "devices": _devices(),
        "cache": _cache(),
    }
    if json:
        console.json(document)
        return
    for line in lines(document):
        console.result(line)


def lines(document: dict[str, Any]) -> list[str]:
    """The document for people: a name and a value a line."""
    bf16 = {True: "bf16", False: "no bf16", None: "bf16 unknown"}[document["processor"]["bf16"]]
    cache = document["cache"]
    size = cache["error"] if cache["bytes"] is None else f"{cache['folder']} ({format_bytes(cache['bytes'])})"
    rows = {
        "tfkit": document["tfkit"],
        "python": f"{document['python']} on {document['platform']}",
        **{name: found or "not installed" for name, found in document["versions"].items()},
        "processor": f"{document['processor']['name']}, {bf16}",
        "threads": str(document["threads"]),
        "devices": ", ".join(document["devices"]) or "none: torch is not installed",
        "cache": size,
    }
    width = max(map(len, rows))
    return [f"{name:{width}}  {value}" for name, value in rows.items()]


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    found = ["cpu"]
    found += [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _cache() -> dict[str, Any]:
    from tfkit.data.store.folder_cache import cache_folder, cache_size
    from tfkit.errors import TfkitError

    try:
        return {"folder": str(cache_folder()), "bytes": cache_size(), "error": None}
    except TfkitError as error:  # the very thing that is reported about
        return {"folder": None, "bytes": None, "error": str(error)}

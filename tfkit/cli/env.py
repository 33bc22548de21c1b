"""tfkit env: what a bug report needs, and what decides the speed here."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tfkit import __version__, console
from tfkit.cli import options
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
_LINUX_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # /proc/cpuinfo: x86 tiles, x86 vectors, Arm
_MAC_BF16 = "hw.optional.arm.FEAT_BF16"


def env(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Show versions, processor and its bf16, threads, devices, caches and their size."""
    document = {
        "schema_version": 1,
        "tfkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": processor(),
        "threads": _threads(),
        "devices": _devices(),
        "cache": _cache(),
    }
    if json:
        console.json(document)
        return
    for line in lines(document):
        console.result(line)


def version(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> dict[str, Any]:
    """Name, and whether it computes in bf16 itself (None: unknown), asked of the system and not of torch."""
    if sys.platform == "darwin":
        bf16 = _sysctl(_MAC_BF16)
        return {"name": _sysctl("machdep.cpu.brand_string") or platform.processor(), "bf16": None if bf16 is None else bf16 == "1"}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"name": platform.processor() or platform.machine(), "bf16": None}
    return read_cpuinfo(text)


def read_cpuinfo(text: str) -> dict[str, Any]:
    """What Linux says of the first processor: `model name` and `flags` on x86, `Features` and no name on Arm."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features"))
    bf16 = None if flags is None else bool(_LINUX_BF16 & set(flags.split()))
    return {"name": fields.get("model name") or platform.processor() or platform.machine(), "bf16": bf16}


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


def _sysctl(name: str) -> str | None:
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def _threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

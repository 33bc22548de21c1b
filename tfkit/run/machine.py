"""What a run ran on: versions, processor, threads, commit. All read from files and package metadata, nothing imported."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tfkit import __version__

PACKAGES = ("torch", "tokenizers", "safetensors", "numpy", "datasets", "huggingface-hub", "codecarbon", "transformers")
CPUINFO = Path("/proc/cpuinfo")  # Linux
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # x86 with tiles, x86, Arm
_GIT_SECONDS = 2


def describe_machine() -> dict[str, Any]:
    """The fields `versions`, `platform`, `processor`, `threads` of run.json; what cannot be found out is None."""
    return {"versions": versions(), "platform": platform.platform(), "processor": processor(), "threads": threads()}


def versions() -> dict[str, str]:
    """The versions of tfkit, Python, and the installed packages that numbers may depend on."""
    found = {"tfkit": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> dict[str, Any]:
    """name, cores (logical), and bf16: the instruction set the processor multiplies bfloat16 with, "" for none, None for unknown."""
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    bf16 = next((flag for flag in _BF16_FLAGS if flag in flags), "") if flags else None
    return {"name": fields.get("model name") or platform.processor() or platform.machine(), "cores": os.cpu_count(), "bf16": bf16}


def threads() -> int:
    """The threads that torch will start with: OMP_NUM_THREADS, else the cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def working_commit(folder: Path | None = None) -> str | None:
    """The commit that `folder` (None: the working directory) has checked out, if it is in a git repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields; empty where the kernel has no such file."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}

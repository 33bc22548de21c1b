"""A description of the machine: versions, processor, threads, and the commit that is checked out. This module does not import torch."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tfkit import __version__

PACKAGES = ("torch", "tokenizers", "safetensors", "numpy", "datasets", "huggingface-hub", "codecarbon", "transformers")
CPUINFO = Path("/proc/cpuinfo")  # Linux
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # flags of CPUs with bfloat16 instructions: x86 with AMX, other x86, Arm
_TIMEOUT_SECONDS = 2  # the time-out of a program that is run, such as git


def describe_machine() -> dict[str, Any]:
    """Return the fields `versions`, `platform`, `processor`, `threads` and `commit` of run.json; an unknown value is None."""
    machine = {"versions": versions(), "platform": platform.platform(), "processor": processor(), "threads": threads()}
    return machine | {"commit": checked_out_commit()}


def versions() -> dict[str, str]:
    """Return the versions of tfkit, Python and the packages in PACKAGES that are installed."""
    installed = {package: number for package in PACKAGES if (number := version(package)) is not None}
    return {"tfkit": __version__, "python": platform.python_version()} | installed


@cache
def version(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> dict[str, Any]:
    """Return `name`, `cores` (logical cores) and `bf16` (instruction set for bfloat16; "": none, None: unknown) of the processor."""
    fields = _mac() if sys.platform == "darwin" else _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    bf16 = next((flag for flag in _BF16_FLAGS if flag in flags), "") if flags else None
    return {"name": fields.get("model name") or platform.processor() or platform.machine(), "cores": os.cpu_count(), "bf16": bf16}


def machine_name() -> str:
    """Return the processor, the number of its cores and the version of torch as text: the key of stored speed measurements."""
    cpu = processor()
    return f"{cpu['name']}, {cpu['cores']} cores, torch {version('torch')}"


def threads() -> int:
    """Return OMP_NUM_THREADS, or else the number of usable cores: the largest number of threads that torch uses by default."""
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list, such as "4,2", is for nested parallel regions
    return int(setting) if setting.isdecimal() and int(setting) > 0 else usable_cores()


def usable_cores() -> int:
    """Return the number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_out_commit() -> str | None:
    """Return the commit that is checked out in the working directory; None outside a git repository."""
    return _output(["git", "rev-parse", "--verify", "HEAD"])


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in Linux's /proc/cpuinfo; {} on other systems."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _mac() -> dict[str, str]:
    """Return the name of a Mac's processor and whether it has bf16, under the keys `model name` and `flags`, as in /proc/cpuinfo."""
    bf16 = {"1": "bf16", "0": "none"}.get(_output(["sysctl", "-n", "hw.optional.arm.FEAT_BF16"]) or "", "")
    return {"model name": _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or "", "flags": bf16}


def _output(command: list[str]) -> str | None:
    """Run a program and return its output; None if it fails, hangs or prints nothing."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

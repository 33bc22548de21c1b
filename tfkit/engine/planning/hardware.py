"""GPUs by name, with numbers from the vendors' data sheets, and the assumed power of this machine.

The power of this machine is computed with CodeCarbon's constants, as the energy meter does on a machine without power counters.
"""

import csv
import math
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from tfkit.carbon.place import codecarbon_folder, codecarbon_settings
from tfkit.run.machine import processor
from tfkit.training.peak_speed import GPU_PEAKS

# From CodeCarbon 3.3.2: core/cpu.py (watts per thread), external/hardware.py (load model), external/ram.py (memory modules).
_WATTS_PER_THREAD = 4.0
_IDLE, _LOAD_EXPONENT = 0.1, 3
_WATTS_PER_MODULE = {"x86": 5.0, "arm": 1.5}
_MIN_RAM_WATTS = {"x86": 10.0, "arm": 3.0}


@dataclass(frozen=True)
class Gpu:
    """The speed, memory and power of a GPU, and the data sheet with these numbers."""

    name: str
    peak_flops: float  # FLOP/s of dense matrix products in bf16
    bytes_per_second: float  # memory bandwidth
    memory_bytes: float
    watts: float  # maximum power of the board
    link_bytes_per_second: float  # bandwidth to the other GPUs of the same node, in one direction
    source: str  # the data sheet


GPUS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: bf16 1,979 TFLOP/s with sparsity; 3.35 TB/s; 80 GB; 700 W; NVLink 900 GB/s both ways
    "h100": Gpu("NVIDIA H100 SXM", GPU_PEAKS["H100"], 3.35e12, 80e9, 700.0, 450e9, "NVIDIA H100 data sheet (SXM5)"),
    # NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM4: bf16 312 TFLOP/s dense; 2,039 GB/s; 400 W; NVLink 600 GB/s both ways
    "a100": Gpu("NVIDIA A100 80GB SXM", GPU_PEAKS["A100"], 2.039e12, 80e9, 400.0, 300e9, "NVIDIA A100 data sheet (80 GB SXM4)"),
    # NVIDIA L4 Tensor Core GPU data sheet: bf16 242 TFLOP/s with sparsity; 300 GB/s; 24 GB; 72 W; PCIe Gen4 x16, 64 GB/s both ways
    "l4": Gpu("NVIDIA L4", GPU_PEAKS["L4"], 300e9, 24e9, 72.0, 32e9, "NVIDIA L4 data sheet"),
    # AMD Instinct MI300X data sheet: bf16 1,307.4 TFLOP/s dense; 5.3 TB/s; 192 GB; 750 W; Infinity Fabric 7 x 64 GB/s each way
    "mi300x": Gpu("AMD Instinct MI300X", GPU_PEAKS["MI300X"], 5.3e12, 192e9, 750.0, 448e9, "AMD Instinct MI300X data sheet"),
}


def gpu_of(device_name: str) -> Gpu | None:
    """Return the GPU of the table GPUS that a driver reports under this name; None if the table does not have it."""
    words = re.sub(r"[^a-z0-9]+", " ", device_name.lower()).split()
    if "pcie" in words or "nvl" in words:  # these boards have less power than the SXM boards of the table
        return None
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


@dataclass(frozen=True)
class ProcessorPower:
    """The name of a processor, its power at full load, and where that number is from."""

    name: str
    watts: float
    source: str


def processor_power() -> ProcessorPower:
    """Return this processor's power: the user's force_cpu_power for CodeCarbon, else as in CodeCarbon's table, else 4 W per thread."""
    facts = processor()
    name, cores = str(facts["name"]), int(facts["cores"] or 1)
    if (forced := _forced("force_cpu_power")) is not None:
        return ProcessorPower(name, forced, "CodeCarbon's force_cpu_power")
    wanted = _words(name)
    for row, watts in _table():
        if _words(row) == wanted:
            return ProcessorPower(name, watts, "CodeCarbon's table")
    return ProcessorPower(name, _WATTS_PER_THREAD * cores, f"CodeCarbon's {_WATTS_PER_THREAD:g} W per thread of an unknown processor")


def machine_watts(busy_threads: float) -> float:
    """Return the power of processor and memory with `busy_threads` busy threads, in watts, by CodeCarbon's load model."""
    load = min(1.0, busy_threads / int(processor()["cores"] or 1))
    return processor_power().watts * (_IDLE + (1 - _IDLE) * load**_LOAD_EXPONENT) + memory_watts()


def memory_watts() -> float:
    """Return the power of this machine's memory in watts: the user's force_ram_power for CodeCarbon, else a constant for each module (less
    from the fifth module on), but at least a minimum.
    """
    if (forced := _forced("force_ram_power")) is not None:
        return forced
    kind = "arm" if re.match("arm|aarch", platform.machine().lower()) else "x86"
    modules, watts = _count_modules(_memory_gb()), _WATTS_PER_MODULE[kind]
    weights = [1.0] * 4 + [0.9] * 4 + [0.8] * 8 + [0.7] * 16
    return max(_MIN_RAM_WATTS[kind], watts * sum(weights[:modules]))


def _count_modules(gigabytes: float) -> int:
    """Return the number of memory modules that CodeCarbon assumes for `gigabytes` GB of memory."""
    for limit, modules in ((2, 1), (16, 2), (64, 4), (128, 8)):
        if gigabytes <= limit:
            return modules
    size = next(size for size in (128, 64, 32, 16, 8, 4) if size <= gigabytes / 8)
    return min(32, math.ceil(gigabytes / size))


def _forced(name: str) -> float | None:
    """Return the watts that the user has set in CodeCarbon's settings under `name`; None if they are not set, or not a valid number."""
    with suppress(KeyError, ValueError):
        if 0 <= (watts := float(codecarbon_settings()[name])) < math.inf:
            return watts
    return None


def _memory_gb() -> float:
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        return int(file.readline().split()[1]) / 2**20
    return 16.0


@cache
def _table() -> list[tuple[str, float]]:
    with suppress(OSError, ValueError, KeyError):
        path = codecarbon_folder() / "data" / "hardware" / "cpu_power.csv"
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["Name"], float(row["TDP"])) for row in csv.DictReader(file)]
    return []


def _words(name: str) -> frozenset[str]:
    """Return the words that identify a processor: for `Intel(R) Core(TM) i7-1065G7 CPU @ 1.30GHz`, they are intel, core, i7-1065g7."""
    plain = re.sub(r"\((r|tm|c)\)|@.*|\b(cpu|processor|with .*)\b|\d+-core", " ", name.lower())
    return frozenset(plain.split())

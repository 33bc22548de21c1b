"""A package named codecarbon with a power of 36 W and a fault in one place; the sidecar finds it before the real one.

Everything tfkit does with it is real: its own process, the thread in it, ledger, emissions.csv, warnings.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from tfkit.carbon import Meter

PATIENCE_SECONDS = 120.0  # for things that take a second, on a machine that is busy
POWER_W = 36.0
G_PER_KWH = 100.0

_PACKAGE = """
import dataclasses, os, sys, time

{import}

POWER_W, G_PER_KWH = {power}, {intensity}


@dataclasses.dataclass
class EmissionsData:
    duration: float
    energy_consumed: float
    cpu_energy: float
    ram_energy: float
    emissions: float
    gpu_energy: float = 0.0
    cpu_utilization_percent: float = 50.0
    gpu_utilization_percent: float = 0.0
    ram_utilization_percent: float = 25.0
    ram_used_gb: float = 1.5
    cpu_count: int = 2
    gpu_count: int = 0


class OfflineEmissionsTracker:
    def __init__(self, *, output_handlers, **options):
        self.handler, self.samples = output_handlers[0], 0
        {constructor}

    def start(self):
        self.began = time.monotonic()
        {start}

    def flush(self):
        self.samples += 1
        seconds = time.monotonic() - self.began
        kwh = POWER_W * seconds / 3.6e6
        if self.samples > {good}:
            {sample}
        self.handler.out(EmissionsData(seconds, kwh, kwh / 4, kwh * 3 / 4, kwh * G_PER_KWH / 1000), None)
        return kwh

    def stop(self):
        {stop}
"""


def write(folder: Path, good: int = 2, **faults: str) -> Path:
    """Write the package; return its folder. `faults`: code for import, constructor, start, sample or stop; `good` samples come first."""
    package = folder / "codecarbon"
    code = {place: faults.get(place, "pass") for place in ("import", "constructor", "start", "sample", "stop")}
    for name, text in {
        "__init__.py": _PACKAGE.format(**code, good=good, power=POWER_W, intensity=G_PER_KWH),
        "output_methods/__init__.py": "",
        "output_methods/base_output.py": "class BaseOutput: pass\n",
        "core/__init__.py": "",
        "core/cpu.py": "def is_rapl_available(): return False\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    return folder


def wait_for_the_end() -> None:
    """Make a run wait at its end until the sidecar has started and answered; call it in the run's process."""
    Meter.stop.__defaults__ = (PATIENCE_SECONDS,)


def put_first(folder: Path) -> Callable[[], None]:
    """Return a function that makes a process's meter find the package in this folder."""

    def before() -> None:
        sys.path.insert(0, str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "codecarbon"]:
            del sys.modules[name]

    return before


def ended(pid: int) -> bool:
    """Whether a process, such as the sidecar of a killed run, is gone or waits to be waited for."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

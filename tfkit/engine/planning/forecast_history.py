"""The time and energy of earlier runs on this machine beside what was predicted: a line of JSON for each, in the cache folder.

Two runs may append at once: a line is one write. Lines that are no records are passed over, and a file that cannot be read or written is
as one that is not there: it never stops a run. Torch-free.
"""

import contextlib
import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.engine.planning.estimate import Range
from tfkit.errors import TfkitError

NAME = "forecasts.jsonl"
TABLE = 2  # the version of the table of speeds (machine_speed.py): a ratio to another one corrects nothing
_LATEST = 9  # runs that a ratio is the median of
_MOST_BYTES = 2**20  # beyond them the older half is dropped
_FAR = 2  # powers of ten of FLOPs, beyond which a run says nothing of another
_SPREAD = 1.3  # to either side, of a single run


@dataclass(frozen=True)
class PastRun:
    """A finished run: the time by the table of speeds, what was predicted, and what it took."""

    machine: str
    threads: int
    kind: str  # of the objective
    size: int  # the power of ten of its FLOPs
    table_seconds: float
    predicted_seconds: float
    seconds: float
    predicted_kwh: float | None = None
    kwh: float | None = None  # None: it was not metered
    pue: float = 1.0
    start_seconds: float = 0.0  # until the data were prepared: part of both times, and the same; an older version did not know it
    table: int = 1  # the version of the table, which the first did not record

    @property
    def ratio(self) -> float:
        """The factor to the time of the table, of what came after the start."""
        return max(0.0, self.seconds - self.start_seconds) / max(1e-9, self.table_seconds - self.start_seconds)

    @property
    def watts(self) -> float | None:
        """The mean power of the machine, without PUE; None where it was not metered."""
        return self.kwh / self.pue * 3.6e6 / self.seconds if self.kwh else None


@dataclass(frozen=True)
class Learned:
    """The lesson of earlier runs for a later one: the factor to the time of the table, and the power."""

    time: Range | None
    watts: Range | None
    runs: int  # that the factor is from


def remember(run: PastRun) -> None:
    """Append a run, as far as there is a place that can be written."""
    with contextlib.suppress(TfkitError, OSError, ValueError):
        path = cache_folder() / NAME
        line = json.dumps(asdict(run), allow_nan=False).encode() + b"\n"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
            size = os.fstat(file).st_size
        finally:
            os.close(file)
        if size > _MOST_BYTES:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_atomically(path, "".join(lines[len(lines) // 2 :]))


def past_runs() -> list[PastRun]:
    """Return the runs, the oldest first."""
    with contextlib.suppress(TfkitError, OSError):
        lines = (cache_folder() / NAME).read_bytes().splitlines()
        return [run for line in lines if (run := _parsed(line)) is not None]
    return []


def _parsed(line: bytes) -> PastRun | None:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        run = PastRun(**json.loads(line))
        numbers: list[Any] = [run.table_seconds, run.predicted_seconds, run.seconds, run.pue]
        optional = [one for one in (run.predicted_kwh, run.kwh) if one is not None]
        if (
            all(math.isfinite(one) and one > 0 for one in [*numbers, *optional])
            and isinstance(run.size, int)
            and 0 <= run.start_seconds < run.table_seconds
        ):
            return run
    return None


def learned(machine: str, threads: int, kind: str, size: int) -> Learned:
    """Return what the latest runs on this machine say: those of the same kind and the nearest size, else of the size.

    The power is of any run with this many threads: it is the machine's.
    """
    here = [run for run in past_runs() if (run.machine, run.threads) == (machine, threads)]
    like = [run for run in here if run.table == TABLE]
    of_kind = [run for run in like if run.kind == kind and abs(run.size - size) <= _FAR]
    nearest = min((abs(run.size - size) for run in of_kind), default=0)
    near = [run for run in of_kind if abs(run.size - size) == nearest] or [run for run in like if run.size == size]
    ratios = [run.ratio for run in near[-_LATEST:]]
    watts = [run.watts for run in here if run.watts is not None][-_LATEST:]
    return Learned(_spread(ratios), _spread(watts), len(ratios))


def median_errors(machine: str) -> dict[str, Any]:
    """Return how far the predictions on this machine were off, in the median: |predicted / actual - 1|, and of how many runs."""
    here = [run for run in past_runs() if run.machine == machine]
    time = [abs(run.predicted_seconds / run.seconds - 1) for run in here]
    energy = [abs(run.predicted_kwh / run.kwh - 1) for run in here if run.predicted_kwh and run.kwh]
    return {
        "runs": len(here),
        "median_error_seconds": round(statistics.median(time), 4) if time else None,
        "median_error_energy_kwh": round(statistics.median(energy), 4) if energy else None,
    }


def _spread(values: Sequence[float]) -> Range | None:
    """Return the median between the second lowest and second highest of many, or the ends of few; of one a margin. None of none."""
    if not values:
        return None
    ordered, middle = sorted(values), statistics.median(values)
    margin = _SPREAD if len(values) < 3 else 1 + (_SPREAD - 1) / 3
    cut = 1 if len(values) >= 5 else 0
    return Range(min(ordered[cut], middle / margin), middle, max(ordered[-1 - cut], middle * margin))

"""The history of runs on this machine: predicted and measured time and energy, one line of JSON for each run, in the cache folder.

Several runs may append at once, since each line is a single write. Invalid lines are skipped, and a file that cannot be read or written is
ignored: it never stops a run. Torch-free.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.engine.training_run.estimate import Range
from tfkit.errors import TfkitError

NAME = "forecasts.jsonl"
TABLE_VERSION = 2  # of the table of speeds (machine_speed.py): a run's ratio to another version's table is not used
_LATEST = 9  # runs of which a ratio is the median
_MAX_BYTES = 2**20  # of the file, beyond which the older half is dropped
_MAX_DISTANCE = 2  # in powers of ten of FLOPs: runs farther apart are not comparable
_SPREAD = 1.3  # factor to either side of a single run
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class PastRun:
    """A finished run: its time by the table of speeds, its predicted and its measured time and energy."""

    machine: str
    threads: int
    kind: str  # of the objective
    size: int  # the power of ten of its FLOPs
    table_seconds: Amount
    predicted_seconds: Amount
    seconds: Amount
    predicted_kwh: Amount | None = None
    kwh: Amount | None = None  # None: not metered
    pue: Amount = 1.0
    start_seconds: Annotated[float, Field(ge=0)] = 0.0  # until the data were prepared, part of the three times above; older lines lack it
    table: int = 1  # the version of the table, which version 1 did not record

    @property
    def ratio(self) -> float:
        """The measured time after the start, divided by the table's time after the start."""
        return max(0.0, self.seconds - self.start_seconds) / max(1e-9, self.table_seconds - self.start_seconds)

    @property
    def watts(self) -> float | None:
        """The mean power of the machine during the run, without PUE; None if the run was not metered."""
        return self.kwh / self.pue * 3.6e6 / self.seconds if self.kwh else None


_PAST_RUN = TypeAdapter(PastRun)


@dataclass(frozen=True)
class Correction:
    """The correction of a forecast by earlier runs: the ratio of their time to that of the table, and their power; None without runs."""

    time_ratio: Range | None
    watts: Range | None
    runs: int  # behind the ratio


def remember(run: PastRun) -> None:
    """Append a run, if the cache folder is writable."""
    with contextlib.suppress(TfkitError, OSError, ValueError):
        path = cache_folder() / NAME
        line = json.dumps(asdict(run), allow_nan=False).encode() + b"\n"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
            size = os.fstat(file).st_size
        finally:
            os.close(file)
        if size > _MAX_BYTES:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_atomically(path, "".join(lines[len(lines) // 2 :]))


def past_runs() -> list[PastRun]:
    """Return the runs, oldest first."""
    with contextlib.suppress(TfkitError, OSError):
        lines = (cache_folder() / NAME).read_bytes().splitlines()
        return [run for line in lines if (run := _parse(line)) is not None]
    return []


def _parse(line: bytes) -> PastRun | None:
    with contextlib.suppress(ValidationError):
        run = _PAST_RUN.validate_json(line, strict=True)
        return run if run.start_seconds < run.table_seconds else None
    return None


def correction_for(machine: str, threads: int, kind: str, size: int) -> Correction:
    """Return the correction by the latest runs here of the same kind of objective and the nearest size, else by those of the same size.

    The power is that of all runs with this many threads: it depends on the machine alone.
    """
    local = [run for run in past_runs() if (run.machine, run.threads) == (machine, threads)]
    comparable = [run for run in local if run.table == TABLE_VERSION]
    same_kind = [run for run in comparable if run.kind == kind and abs(run.size - size) <= _MAX_DISTANCE]
    distance = min((abs(run.size - size) for run in same_kind), default=0)
    nearest = [run for run in same_kind if abs(run.size - size) == distance] or [run for run in comparable if run.size == size]
    ratios = [run.ratio for run in nearest[-_LATEST:]]
    watts = [run.watts for run in local if run.watts is not None][-_LATEST:]
    return Correction(_spread(ratios), _spread(watts), len(ratios))


def median_errors(machine: str) -> dict[str, Any]:
    """Return the median errors of the predictions on this machine, |predicted / actual - 1|, and the number of runs; None without runs."""
    local = [run for run in past_runs() if run.machine == machine]
    time = [abs(run.predicted_seconds / run.seconds - 1) for run in local]
    energy = [abs(run.predicted_kwh / run.kwh - 1) for run in local if run.predicted_kwh and run.kwh]
    return {
        "runs": len(local),
        "median_error_seconds": round(statistics.median(time), 4) if time else None,
        "median_error_energy_kwh": round(statistics.median(energy), 4) if energy else None,
    }


def _spread(values: Sequence[float]) -> Range | None:
    """Return the median of the values, with the lowest and the highest as bounds; of five or more values, the second lowest and highest.

    Each bound is at least a margin away from the median. None without values.
    """
    if not values:
        return None
    ordered, middle = sorted(values), statistics.median(values)
    margin = _SPREAD if len(values) < 3 else 1 + (_SPREAD - 1) / 3
    cut = 1 if len(values) >= 5 else 0
    return Range(min(ordered[cut], middle / margin), middle, max(ordered[-1 - cut], middle * margin))

"""The history of runs on this machine: predicted and measured time and energy, one line of JSON for each run, in the cache folder.

Several processes may append at the same time, since each line is a single write. Invalid lines are skipped. A file that cannot be read or
written is ignored, so that it never stops a run. This module does not import torch.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from tfkit.data.store.folder_cache import cache_folder
from tfkit.durable import write_atomically
from tfkit.engine.training_run.estimate import Range
from tfkit.errors import TfkitError

NAME = "forecasts.jsonl"
TABLE_VERSION = 2  # version of the table of speeds (machine_speed.py); only runs forecast with this version correct new times
_LATEST = 9  # a correction uses at most this number of the latest runs
_MAX_BYTES = 2**20  # size of the file beyond which its older half is dropped
_MAX_DISTANCE = 2  # largest difference of `PastRun.size` at which two runs are comparable
_SPREAD = 1.3  # the bounds of a range from one or two runs are at least this factor away from the median
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class PastRun:
    """A finished run: its time as computed from the table of speeds, and its time and energy as predicted and as measured."""

    machine: str
    threads: int
    kind: str  # the kind of objective
    size: int  # the power of ten nearest to the FLOPs of the run
    table_seconds: Amount
    predicted_seconds: Amount
    seconds: Amount
    predicted_kwh: Amount | None = None
    kwh: Amount | None = None  # None: energy was not metered
    pue: Amount = 1.0
    start_seconds: Annotated[float, Field(ge=0)] = 0.0  # the time until the data were prepared, which the three other times include
    table: int = 1  # TABLE_VERSION when the run was forecast; lines of version 1 lack this field

    @property
    def ratio(self) -> float:
        """The measured time divided by the time from the table of speeds, both without the time for preparing the data."""
        return max(0.0, self.seconds - self.start_seconds) / max(1e-9, self.table_seconds - self.start_seconds)

    @property
    def watts(self) -> float | None:
        """The mean power of the machine during the run, without PUE; None if the run was not metered."""
        return self.kwh / self.pue * 3.6e6 / self.seconds if self.kwh else None


_PAST_RUN = TypeAdapter(PastRun)


@dataclass(frozen=True)
class Correction:
    """The correction of a forecast by earlier runs. A range is None if no earlier run gives a value for it."""

    time_ratio: Range | None  # measured time divided by the time from the table of speeds
    watts: Range | None  # mean power of the machine, without PUE
    runs: int  # number of runs from which `time_ratio` is computed


def remember(run: PastRun) -> None:
    """Append a run to the history, if the cache folder is writable."""
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
    """Return the runs of the history, oldest first; [] if the file cannot be read. Invalid lines are skipped."""
    runs = []
    with contextlib.suppress(TfkitError, OSError):
        for line in (cache_folder() / NAME).read_bytes().splitlines():
            with contextlib.suppress(ValidationError):
                runs.append(_PAST_RUN.validate_json(line, strict=True))
    return [run for run in runs if run.start_seconds < run.table_seconds]


def correction_for(machine: str, threads: int, kind: str, size: int) -> Correction:
    """Return the correction for a run of this `kind` of objective and `size`, from the latest runs on `machine` with `threads` threads.

    The time ratio is from runs of the same kind with the nearest size, at most _MAX_DISTANCE away; if there are none, from runs of any kind
    with the same size. The power is from runs of any kind and size, since it depends on the machine and the threads alone.
    """
    local = [run for run in past_runs() if (run.machine, run.threads) == (machine, threads)]
    comparable = [run for run in local if run.table == TABLE_VERSION]
    same_kind = [run for run in comparable if run.kind == kind and abs(run.size - size) <= _MAX_DISTANCE]
    distance = min((abs(run.size - size) for run in same_kind), default=0)
    nearest = [run for run in same_kind if abs(run.size - size) == distance] or [run for run in comparable if run.size == size]
    ratios = [run.ratio for run in nearest[-_LATEST:]]
    watts = [run.watts for run in local if run.watts is not None][-_LATEST:]
    return Correction(_spread(ratios), _spread(watts), len(ratios))


def median_errors(machines: Collection[str]) -> dict[str, Any]:
    """Return the number of runs on `machines`, and their median errors of time and energy, |predicted / actual - 1|, or None if unknown."""
    local = [run for run in past_runs() if run.machine in machines]
    time = [abs(run.predicted_seconds / run.seconds - 1) for run in local]
    energy = [abs(run.predicted_kwh / run.kwh - 1) for run in local if run.predicted_kwh and run.kwh]
    return {
        "runs": len(local),
        "median_error_seconds": round(statistics.median(time), 4) if time else None,
        "median_error_energy_kwh": round(statistics.median(energy), 4) if energy else None,
    }


def _spread(values: Sequence[float]) -> Range | None:
    """Return the median of the values, with the lowest and the highest value as bounds; None without values.

    Of five or more values, the second lowest and the second highest are the bounds. Each bound is at least a factor
    of 1.3 (for three or more values, of 1.1) away from the median.
    """
    if not values:
        return None
    ordered, middle = sorted(values), statistics.median(values)
    margin = _SPREAD if len(values) < 3 else 1 + (_SPREAD - 1) / 3
    cut = 1 if len(values) >= 5 else 0
    return Range(min(ordered[cut], middle / margin), middle, max(ordered[-1 - cut], middle * margin))

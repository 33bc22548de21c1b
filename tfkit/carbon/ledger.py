"""The ledger, carbon/<node>-<attempt>.jsonl: the measurements of one attempt (one start of a run) on one node. Each tick (a reading of the
meter) appends a line of JSON, which is flushed to disk.

    {"kind": "header", "run_id": ..., "attempt": 1, "node": 0, "host": ..., "place": {...}, "pue": 1.0, ..., "previous": null}
    {"kind": "machine", "components": {"cpu": "model", "ram": "constant"}, "tdp_w": 65.0, "record": {...}}     once CodeCarbon has started
    {"kind": "tick", "at": ..., "phase": "train", "seconds": ..., "energy_wh": ..., ...}         sums since the attempt's start
    {"kind": "estimate", "seconds": 2.1, "energy_wh": ..., ...}     for the time before CodeCarbon's start, at the first measured power

Each sidecar, the process that measures one attempt on one node, writes its own file, so no locks are needed. The time between two ticks
belongs to the phase of the later tick. A tick with a `step` marks the end of work that is kept if the run resumes after that step or a
later one: the checkpoint of the step was saved or loaded, or its evaluation was recorded. The sums in ticks do not include the estimate.
Code that reads a ledger adds the estimate to the attempt's sums, and divides it among the phases in proportion to their unmeasured time.

Each line has the SHA-256 of the previous line, so that changed, removed and inserted lines are detected. The hash covers the bytes between
two line breaks. A torn line, which is not a JSON object, is not part of the chain. The first line of a ledger has the hash of the line that
was then the last one in the previous ledger on the same node (null if there was none), so that a missing ledger is detected, too. If the
last lines of a ledger are removed, its own hashes do not show it, but emissions.csv, the totals in run.json, and the first line of the next
ledger do.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tfkit.carbon.footprint import ENERGIES, SUMS

SCHEMA_VERSION = 1
FINISH = "finish"  # the last phase of an attempt, after the last save of a checkpoint
PREVIOUS = "previous"  # the field with the hash of the previous line
UTILIZATIONS = ("cpu_percent", "gpu_percent", "ram_percent", "ram_used_gb")


def line_hash(text: bytes) -> str:
    """Return the SHA-256 of a line without its line break."""
    return hashlib.sha256(text).hexdigest()


def parse_line(text: bytes) -> dict[str, Any] | None:
    """Return the object in a line; None if the line is torn or damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


@dataclass
class Chain:
    """The check of one ledger's hash chain, line by line."""

    lines: int = 0  # the number of lines, including torn and empty ones
    first: Any = None  # the hash in the first line: that of the last line of the node's previous ledger
    last: str | None = None  # the hash of the last intact line
    is_chained: bool | None = None  # whether the first intact line has the field PREVIOUS; None: no intact line yet
    broken_at: int | None = None  # the number, from 1, of the first line without the hash of the intact line before it; None: no such line

    def add(self, text: bytes, line: dict[str, Any] | None) -> None:
        """Add the next line of the file; `line`: the object in that line, None if the line is torn or damaged."""
        self.lines += 1
        if line is None:
            return
        if self.is_chained is None:
            self.is_chained, self.first = PREVIOUS in line, line.get(PREVIOUS)
        elif self.broken_at is None and (PREVIOUS in line if not self.is_chained else line.get(PREVIOUS) != self.last):
            self.broken_at = self.lines
        self.last = line_hash(text)

    @property
    def state(self) -> str:
        """Return `chained`, `unchained` (written by an older version of tfkit) or `broken at line n`."""
        if self.broken_at is not None:
            return f"broken at line {self.broken_at}"
        return "chained" if self.is_chained else "unchained"


@dataclass
class Phase:
    """The sums of one phase of one attempt. They include all times at which the phase occurs in the attempt."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    utilization: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UTILIZATIONS, 0.0))
    ended_at: float = 0.0
    unmeasured_seconds: float = 0.0


@dataclass(frozen=True)
class ResumePoint:
    """The end of work that is kept if the run resumes after `step` or a later step, with the sums since the attempt's start."""

    step: int
    measured: dict[str, float]
    unmeasured_seconds: float


@dataclass
class Attempt:
    """The sums of one ledger, which has the measurements of one attempt on one node."""

    name: str  # the file's name without its suffix
    header: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    measured_seconds: float = 0.0
    utilization: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UTILIZATIONS, 0.0))
    estimate: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    phases: dict[str, Phase] = field(default_factory=dict)
    resume_points: list[ResumePoint] = field(default_factory=list)
    work_end: ResumePoint | None = None  # the sums when the last phase, `finish`, began; None if the last phase is another one
    series_integral: float = 0.0  # the integral of a series of intensities over time, in g/kWh x s
    series_seconds: float = 0.0
    is_beyond_series: bool = False
    ticks: list[tuple[float, float, float, float]] | None = None  # of each tick: sums so far of seconds, Wh and g; mean W; None: not stored
    status: str = "starting"
    lines_dropped: int = 0
    chain: Chain = field(default_factory=Chain)

    def add(self, text: bytes) -> None:
        """Add one line. A torn or invalid line is dropped and counted; an empty line is ignored."""
        line = parse_line(text)
        self.chain.add(text, line)
        if not text.strip():
            return
        try:
            if line is None:
                raise TypeError("not an object")
            kind = line["kind"]
            if kind == "tick":
                self._add_tick(line)
            elif kind == "estimate":
                self._add_estimate(line)
            elif kind == "machine":
                tdp = _finite(line["tdp_w"]) if line.get("tdp_w") is not None else None
                self.machine = {"components": dict(line["components"]), "record": dict(line["record"]), "tdp_w": tdp}
            elif kind == "header":
                if line.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
                    raise ValueError("written by another version, whose numbers may have another meaning")
                numbers = {"attempt": int(line["attempt"]), "node": int(line["node"])}
                self.header = {**line, "run_id": str(line["run_id"]), "place": dict(line.get("place", {})), **numbers}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self.lines_dropped += 1

    def _add_tick(self, line: dict[str, Any]) -> None:
        sums = {name: _finite(line[name]) for name in SUMS}
        utilization = {name: _finite(line[name]) for name in UTILIZATIONS}
        ended_at, name, status, measured = _finite(line["at"]), str(line["phase"]), str(line["status"]), _finite(line["measured_seconds"])
        datetime.fromtimestamp(ended_at)  # raises for an invalid time
        intensity, covered = _finite(line.get("g_per_kwh", 0.0)), _finite(line.get("g_per_kwh_seconds", 0.0))
        step, power = int(line["step"]) if "step" in line else None, _finite(line.get("power_w", 0.0))
        if name != FINISH:
            self.work_end = None
        elif self.work_end is None:
            self.work_end = ResumePoint(0, self.measured, self.measured["seconds"] - self.measured_seconds)
        phase = self.phases.setdefault(name, Phase())
        for key, value in sums.items():
            phase.sums[key] += value - self.measured[key]
        phase.unmeasured_seconds += sums["seconds"] - self.measured["seconds"] - (measured - self.measured_seconds)
        phase.utilization, phase.ended_at = utilization, ended_at
        self.measured, self.measured_seconds, self.status, self.utilization = sums, measured, status, utilization
        self.series_integral += intensity * covered
        self.series_seconds += covered
        self.is_beyond_series = self.is_beyond_series or line.get("beyond_series") is True
        if self.ticks is not None:
            self.ticks.append((sums["seconds"], sums["energy_wh"], sums["emissions_g"], power))
        if step is not None:
            self.resume_points.append(ResumePoint(step, sums, sums["seconds"] - measured))

    def _add_estimate(self, line: dict[str, Any]) -> None:
        estimate = {name: _finite(line[name]) for name in SUMS}
        if any(self.estimate.values()):  # the line occurs twice if the disk reported an error although it had written the line
            return
        uncovered = {name: max(0.0, phase.unmeasured_seconds) for name, phase in self.phases.items()}
        total = sum(uncovered.values())
        for name, seconds in uncovered.items():
            for key in ENERGIES:
                self.phases[name].sums[key] += estimate[key] * (seconds / total if total else 1 / len(uncovered))
        self.estimate = estimate

    @property
    def sums(self) -> dict[str, float]:
        """The attempt's time, and its energies and emissions, including the estimate of those before CodeCarbon's start."""
        return self.measured | {name: self.measured[name] + self.estimate[name] for name in ENERGIES}

    @property
    def outcome(self) -> str:
        """The attempt's `carbon_status`: `ok`, `degraded` (the energy is a lower bound), or `failed` (the ledger has no energy)."""
        if not self.sums["energy_wh"]:
            return "failed"
        return "degraded" if self.status == "degraded" else "ok"

    def work_since(self, start: ResumePoint) -> dict[str, float]:
        """Return the sums from the point `start` to the beginning of the phase `finish` or, without that phase, to the end of the ledger.
        They include the fraction of the estimate that belongs to this interval.
        """
        gap, end = self.estimate["seconds"], self.work_end or ResumePoint(0, self.measured, self.estimate["seconds"])
        before, until = (min(max(point.unmeasured_seconds, 0.0), gap) for point in (start, end))
        fraction = max(0.0, until - before) / gap if gap else 0.0
        sums = {name: max(0.0, end.measured[name] - start.measured[name]) for name in SUMS}
        return sums | {name: sums[name] + fraction * self.estimate[name] for name in ENERGIES}

    @property
    def components(self) -> dict[str, str]:
        """The method by which the energy of each component (cpu, gpu, ram) was obtained: counter, model, constant or user."""
        return dict(self.machine.get("components", {}))

    @property
    def place(self) -> dict[str, Any]:
        """The place where the energy was used: the fields of Place (place.py) and its description, `text`."""
        return dict(self.header.get("place", {}))


def _finite(value: Any) -> float:
    """Convert a value to a finite float. Raises ValueError, TypeError or OverflowError if that is impossible."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


class LedgerReader:
    """The reader of all ledgers of a run folder. Each read continues where the previous read ended."""

    def __init__(self, folder: Path, *, keeps_ticks: bool = False):
        self.folder = folder
        self._keeps_ticks = keeps_ticks
        self._read: dict[Path, tuple[int, Attempt]] = {}  # for each ledger, the number of bytes read so far, and the sums of their lines

    def attempts(self) -> list[Attempt]:
        """Return the sums of each ledger that has a header, sorted by attempt and node."""
        attempts = {path: self._refresh(path) for path in sorted(self.folder.glob("*.jsonl"))}
        self._read = {path: self._read[path] for path in attempts}
        with_header = [attempt for attempt in attempts.values() if attempt.header]
        return sorted(with_header, key=lambda attempt: (attempt.header["attempt"], attempt.header["node"], attempt.name))

    def sizes(self) -> dict[Path, int]:
        """Return the size of each ledger in bytes. If two calls return the same sizes, nothing was written between them."""
        return {path: path.stat().st_size for path in self.folder.glob("*.jsonl")}

    def _refresh(self, path: Path) -> Attempt:
        new = 0, Attempt(path.stem, ticks=[] if self._keeps_ticks else None)
        start, attempt = self._read.get(path, new)
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < start:
                start, attempt = new
            file.seek(start)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]  # after it comes at most a line that is being written or was torn by a kill
        for text in complete.split(b"\n")[:-1]:
            attempt.add(text)
        self._read[path] = (start + len(complete), attempt)
        return attempt

"""The ledger, carbon/<node>-<attempt>.jsonl: what was measured, one fsynced JSON line a tick. Only ever appended to.

    {"kind": "header", "run_id": ..., "attempt": 1, "node": 0, "host": ..., "place": {...}, "pue": 1.0, ...}
    {"kind": "machine", "components": {"cpu": "model", "ram": "constant"}, "record": {...}}     once CodeCarbon has started
    {"kind": "tick", "at": ..., "phase": "train", "seconds": ..., "energy_wh": ..., ...}         sums since the attempt's start

Each process writes a file of its own, so there are no locks. What lies between two ticks belongs to the phase of the later one.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tfkit.carbon.reading import Reading, Totals

SCHEMA_VERSION = 1
SUMS = ("seconds", "energy_wh", "cpu_wh", "gpu_wh", "ram_wh", "emissions_g")
UTILIZATIONS = ("cpu_percent", "gpu_percent", "ram_percent", "ram_used_gb")


class Ledger:
    """The writer. Every line is on the disk when `append` returns; OSError where that cannot be."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self._descriptor = descriptor
        self._torn = False

    @classmethod
    def create(cls, folder: Path, node: int, attempt: int) -> Self:
        """A new file. An attempt number that was used before (a lock that did not hold) gets a file beside the first one."""
        folder.mkdir(parents=True, exist_ok=True)
        for serial in range(1, 1000):
            path = folder / (f"{node}-{attempt}.jsonl" if serial == 1 else f"{node}-{attempt}.{serial}.jsonl")
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                sync_folder(folder)
                return cls(path, descriptor)
        raise FileExistsError(f"{folder} holds a thousand ledgers of node {node}, attempt {attempt}")

    def append(self, line: dict[str, Any]) -> None:
        """Write one line. After a failure the next one begins with a line break, so that a torn line spoils no other."""
        data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self._torn:
            data = b"\n" + data
        self._torn = True
        if os.write(self._descriptor, data) != len(data):
            raise OSError(f"{self.path}: the disk took only a part of a line")
        os.fsync(self._descriptor)
        self._torn = False


def tick_line(at: float, phase: str, seconds: float, totals: Totals, power_w: float, status: str, reason: str | None) -> dict[str, Any]:
    """A tick. `reason` says what went wrong since the tick before."""
    line = {"kind": "tick", "at": round(at, 3), "phase": phase, "seconds": round(seconds, 3), **asdict(totals), "power_w": power_w}
    return line | {"status": status} | ({"reason": reason} if reason else {})


@dataclass
class Phase:
    """What one phase of one attempt took, all its turns together."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    utilization: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UTILIZATIONS, 0.0))
    ended_at: float = 0.0


@dataclass
class Attempt:
    """One ledger, added up."""

    name: str  # the file's, without suffix
    header: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    phases: dict[str, Phase] = field(default_factory=dict)
    status: str = "starting"
    lines_dropped: int = 0

    def add(self, text: bytes) -> None:
        """Count one line; one that is torn or unknown is dropped, and counted as such."""
        try:
            line = json.loads(text)
            kind = line["kind"]
            if kind == "tick":
                self._add_tick(line)
            elif kind == "machine":
                self.machine = {"components": dict(line["components"]), "record": dict(line["record"])}
            elif kind == "header":
                self.header = {**line, "run_id": str(line["run_id"]), "attempt": int(line["attempt"]), "node": int(line["node"])}
        except (ValueError, KeyError, TypeError):
            self.lines_dropped += 1

    def _add_tick(self, line: dict[str, Any]) -> None:
        sums = {name: float(line[name]) for name in SUMS}
        utilization = {name: float(line[name]) for name in UTILIZATIONS}
        ended_at, name, status = float(line["at"]), str(line["phase"]), str(line["status"])
        phase = self.phases.setdefault(name, Phase())
        for key, value in sums.items():
            phase.sums[key] += value - self.sums[key]
        phase.utilization, phase.ended_at = utilization, ended_at
        self.sums, self.status = sums, status

    @property
    def components(self) -> dict[str, str]:
        """What each part's energy is: counter, model, constant or user."""
        components: dict[str, str] = self.machine.get("components", {})
        return components


class LedgerReader:
    """All ledgers of a run folder, read on from where the last look ended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[Path, tuple[int, Attempt]] = {}  # bytes read so far, and what they say

    def attempts(self) -> list[Attempt]:
        """Every attempt that has a header, in order."""
        found = {path: self._refresh(path) for path in self._paths()}
        self._read = {path: self._read[path] for path in found}
        known = [attempt for attempt in found.values() if attempt.header]
        return sorted(known, key=lambda attempt: (attempt.header["attempt"], attempt.header["node"], attempt.name))

    def sizes(self) -> dict[Path, int]:
        """What a later look compares, to see whether anything was written meanwhile."""
        return {path: path.stat().st_size for path in self._paths()}

    def _paths(self) -> Iterator[Path]:
        return iter(sorted(self.folder.glob("*.jsonl")))

    def _refresh(self, path: Path) -> Attempt:
        start, attempt = self._read.get(path, (0, Attempt(path.stem)))
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < start:
                start, attempt = 0, Attempt(path.stem)
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # the rest is a line that is still being written, or was torn by a kill
        for text in whole.splitlines():
            if text.strip():
                attempt.add(text)
        self._read[path] = (start + len(whole), attempt)
        return attempt


def read_totals(run_folder: Path, run_id: str | None = None) -> Reading:
    """What a run has used so far, by its ledgers; of one run id, or of all that are there. Status "off" without a ledger."""
    attempts = [attempt for attempt in LedgerReader(run_folder / "carbon").attempts() if run_id in (None, attempt.header["run_id"])]
    if not attempts:
        return Reading()
    energy, grams, seconds = (sum(attempt.sums[name] for attempt in attempts) for name in ("energy_wh", "emissions_g", "seconds"))
    degraded = any(attempt.status == "degraded" for attempt in attempts)
    place = str(attempts[-1].header.get("place", {}).get("text", ""))
    return Reading(energy, grams, 0.0, seconds, "degraded" if degraded else "ok", place, provenance(attempts[-1].components))


def provenance(components: dict[str, str]) -> str:
    """One phrase for people: `GPU counter, CPU model, RAM constant`."""
    return ", ".join(f"{part.upper()} {components[part]}" for part in ("gpu", "cpu", "ram") if part in components)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last through a power cut, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

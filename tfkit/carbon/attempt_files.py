"""Write the files of one attempt (one start of a run): its ledger, and emissions.csv, which is derived from all ledgers of the run."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfkit.carbon.emissions_file import write_emissions
from tfkit.carbon.footprint import ENERGIES, SUMS, Totals
from tfkit.carbon.ledger import PREVIOUS, SCHEMA_VERSION, Attempt, LedgerReader, line_hash, parse_line
from tfkit.carbon.probe import Machine
from tfkit.carbon.totals import has_gaps, wall_seconds
from tfkit.durable import sync_folder


class Ledger:
    """Appends lines of JSON to one ledger, the file with the measurements of one attempt on one node (ledger.py)."""

    def __init__(self, folder: Path, node: int, attempt: int, previous: str | None = None):
        """Create the ledger's file. Its name has a serial number if this node and attempt already have a ledger: after a loss of
        run.json, attempts are counted from 1 again. Raises OSError.

        `previous`: the hash of the last line of the previous ledger on this node; None if there is none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for serial in range(1, 1000):
            self.path = folder / (f"{node}-{attempt}.jsonl" if serial == 1 else f"{node}-{attempt}.{serial}.jsonl")
            with contextlib.suppress(FileExistsError):
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                break
        else:
            raise FileExistsError(f"{folder} holds a thousand ledgers of node {node}, attempt {attempt}")
        with contextlib.suppress(OSError):  # not every file system can sync a folder
            sync_folder(folder)
        self._previous, self._torn = previous, False

    def append(self, line: dict[str, Any]) -> None:
        """Write `line`, with the hash of the last intact line before it, and flush it to disk. Raises OSError if the line may be torn
        (incomplete); then the next call writes a line break before its own line.
        """
        if self._torn:  # the previous line may have been written completely, although `append` raised an error
            lines = reversed(self.path.read_bytes().split(b"\n"))
            self._previous = next((line_hash(text) for text in lines if parse_line(text) is not None), self._previous)
        text = json.dumps(line | {PREVIOUS: self._previous}, ensure_ascii=False, allow_nan=False).encode()
        data = b"\n" * self._torn + text + b"\n"
        self._torn = True
        if os.write(self._descriptor, data) != len(data):
            raise OSError(f"{self.path}: only a part of a line was written")
        os.fsync(self._descriptor)
        self._torn, self._previous = False, line_hash(text)


def tick_line(
    at: float, phase: str, seconds: float, totals: Totals, power_w: float, status: str, reason: str | None = None, step: int | None = None
) -> dict[str, Any]:
    """Return the ledger's line for a tick, a reading of the meter. `at`: seconds since 1970; `seconds`: since the attempt's start;
    `reason`: the problems since the previous tick; `step`: a step whose checkpoint was just saved or loaded, or evaluation recorded.
    """
    line = {"kind": "tick", "at": round(at, 3), "phase": phase, "seconds": round(seconds, 3), **asdict(totals), "power_w": power_w}
    return line | {"status": status} | ({"reason": reason} if reason else {}) | ({} if step is None else {"step": step})


def estimate_line(seconds: float, totals: Totals) -> dict[str, Any]:
    """Return the ledger's line for the `seconds` before CodeCarbon's start: their energy and emissions at the mean rates of `totals`."""
    ratio = seconds / totals.measured_seconds
    return {"kind": "estimate", "seconds": seconds} | {name: getattr(totals, name) * ratio for name in ENERGIES}


class AttemptFiles:
    """The writer of one attempt's files. `spec`: the meter's first message, which describes the attempt; if its field `folder` is None,
    nothing is written. `warn` is called only for the first failure to read or write.
    """

    def __init__(self, spec: dict[str, Any], warn: Callable[[str], object]):
        self._spec, self._warn, self._warned = spec, warn, False
        self._node = int(os.environ.get("GROUP_RANK") or os.environ.get("SLURM_NODEID") or 0)
        self._nodes = int(spec.get("nodes", 1)) if spec["folder"] else 1
        self.earlier = dict.fromkeys(SUMS, 0.0)
        """The sums of the run's attempts before this one."""
        self.earlier_degraded = False
        self._ledger: Ledger | None = None
        self._previous: str | None = None  # the hash of the last line of the previous ledger on this node
        self._unwritten: list[dict[str, Any]] = []  # lines of the ledger that are not on the disk yet
        self._machine_written = False
        if spec["folder"]:
            self._ledgers = LedgerReader(Path(spec["folder"]) / "carbon")
            with self._guarding():
                self._count_earlier(self._ledgers.attempts())
            self._unwritten.append(self._header())

    def write(self, tick: dict[str, Any], estimate: dict[str, Any] | None, machine: Machine | None, *, derive: bool) -> None:
        """Append any unwritten lines, `machine` (only once), `tick` and `estimate` to the ledger; `derive`: also write emissions.csv."""
        if not self._spec["folder"]:
            return
        with self._guarding():
            self._append(tick, estimate, machine)
            if derive:
                write_emissions(Path(self._spec["folder"]), self._ledgers)

    def sums_of_other_nodes(self) -> dict[str, float]:
        """Return the energies and emissions of this attempt on all other nodes, from their ledgers; {} for one node or if reading fails."""
        if self._nodes == 1:
            return {}
        with self._guarding():
            key = (self._spec["run_id"], self._spec["attempt"])
            ledgers = [ledger for ledger in self._ledgers.attempts() if (ledger.header["run_id"], ledger.header["attempt"]) == key]
            return {name: sum(ledger.sums[name] for ledger in ledgers if ledger.header["node"] != self._node) for name in ENERGIES}
        return {}

    def _count_earlier(self, attempts: list[Attempt]) -> None:
        self._previous = next((attempt.chain.last for attempt in reversed(attempts) if attempt.header["node"] == self._node), None)
        own = [attempt for attempt in attempts if attempt.header["run_id"] == self._spec["run_id"]]
        # Left out are the ledgers of this attempt that other nodes may already have written.
        earlier = [attempt for attempt in own if attempt.header["node"] == self._node or attempt.header["attempt"] != self._spec["attempt"]]
        self.earlier = {name: sum(attempt.sums[name] for attempt in earlier) for name in self.earlier}
        self.earlier["seconds"] = sum(wall_seconds(earlier).values())
        self.earlier_degraded = has_gaps(earlier, self._spec["attempt"] - 1)

    def _header(self) -> dict[str, Any]:
        spec = self._spec
        return {
            "kind": "header",
            "schema_version": SCHEMA_VERSION,
            **{name: spec[name] for name in ("run_id", "attempt", "project", "started", "place", "pue", "every_seconds")},
            "node": self._node,
            **({"nodes": self._nodes} if self._nodes > 1 else {}),
            "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
            "codecarbon_version": _codecarbon_version(),
            "os": platform.platform(),
            "python_version": platform.python_version(),
        }

    def _append(self, tick: dict[str, Any], estimate: dict[str, Any] | None, machine: Machine | None) -> None:
        if machine is not None and not self._machine_written:
            record = {name: value if isinstance(value, int | float | str) else None for name, value in machine.record.items()}
            self._unwritten.append({"kind": "machine", "components": machine.components, "tdp_w": machine.tdp_w, "record": record})
            self._machine_written = True
        last = self._unwritten[-1] if self._unwritten else {"kind": ""}
        if last["kind"] == "tick" and last["phase"] == tick["phase"] and not last.keys() & {"step", "reason", "g_per_kwh"}:
            # Drop the unwritten tick: it has no step, reason or intensity, and the sums of `tick` include its sums.
            self._unwritten.pop()
        self._unwritten += [tick, *([estimate] if estimate else [])]
        if self._ledger is None:
            self._ledger = Ledger(self._ledgers.folder, self._node, int(self._spec["attempt"]), self._previous)
        while self._unwritten:
            self._ledger.append(self._unwritten[0])
            del self._unwritten[0]

    @contextlib.contextmanager
    def _guarding(self) -> Iterator[None]:
        """A context in which a failure to read or write the files is only a warning, given once, so that the measurement continues."""
        try:
            yield
        except Exception as error:
            if not self._warned:
                self._warn(f"the carbon ledger or emissions.csv could not be written ({error}); it is tried again at each reading")
            self._warned = True


def _codecarbon_version() -> str:
    try:
        return importlib.metadata.version("codecarbon")
    except importlib.metadata.PackageNotFoundError:
        return ""

"""run.json: a run's command, data and machine, and its attempts (one for each start) and how they ended. Each write is atomic.

    schema_version  run_id  name  command  status
    attempts: [{number, status, started_utc, ended_utc, seconds, host, pid, resumed_from, from_step, to_step, error}]
    versions  platform  processor  threads  commit          of the latest attempt that resumed from a checkpoint or found none
    kind  planned_steps  before {...}  data  given {recipe, text, overrides}  result {...}  and the other fields of RunDocument
    totals {seconds, train_seconds, tokens, energy_kwh, energy_kwh_parts {cpu, gpu, ram}, emissions_g, carbon_status, place, rework_...}

`status`, of the run and of an attempt, is one of: running, stopped (by a signal or budget; can be resumed), finished, failed, killed (it
was still "running" at the next start, so its ended_utc is null). A run without attempts is "new". Times are UTC. The `seconds` of an
attempt are monotonic time, from its start to its end or, if it was killed, to its last write of the file.

The stages of a recipe and the trials of a sweep are runs, each with its run.json, in runs/<name>/<stage or trial>/. The folder runs/<name>/
that holds them has a run.json, too.

`Receipt` writes the file, `read_run_json` reads it. A file of an older version, or a damaged one that is still JSON, is read if its main
fields are valid (`_identifies_a_run`); any other field that is invalid or missing gets its default.
"""

import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tfkit.carbon.footprint import RunTotals
from tfkit.durable import write_atomically
from tfkit.errors import OtherVersionError
from tfkit.regular_files import read_limited
from tfkit.run import strict_json
from tfkit.run.fitting_fields import fitting
from tfkit.run.lineage import ParentEntry, parent_entries
from tfkit.run.model_files import MIB, check_version

NAME = "run.json"
SCHEMA_VERSION = 1
CHAIN = "stages"  # the `kind` of a folder that holds the stages of a recipe, each as a run
SWEEP = "sweep"
_LIMIT = 64 * MIB
SECONDS_BETWEEN_WRITES = 5.0  # the least time between writes that change only the duration of the running attempt
End = Literal["stopped", "finished", "failed"]
_OWN_FIELDS = frozenset({"schema_version", "run_id", "status", "attempts"})
_OBJECTS = ("totals", "result", "given", "processor", "versions")


@dataclass(frozen=True)
class AttemptEntry:
    """One attempt (start) of a run, as run.json records it."""

    status: str = ""
    started_utc: str | None = None
    ended_utc: str | None = None
    seconds: float | None = None
    host: str | None = None
    to_step: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class RunDocument:
    """The content of a run.json. A field that is missing in the file, or has another type than tfkit writes, has its default."""

    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the whole document, as it is in the file
    run_id: str = ""
    status: str = "new"
    attempts: tuple[AttemptEntry, ...] = ()
    totals: RunTotals = field(default_factory=RunTotals)
    parents: tuple[ParentEntry, ...] | None = None  # the models from which the run started, learned or took its tokenizer
    command: list[str] | None = None
    kind: str | None = None
    planned_steps: int | None = None
    given: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)  # fingerprints of the data, by part, and the SHA-256 of files with reward functions
    held_out: list[str] = field(default_factory=list)  # a hash of each validation set; runs with equal hashes were scored on the same rows
    data_sizes: dict[str, Any] = field(default_factory=dict)  # of `train` and `validation`: numbers of `rows` or `documents`, and `tokens`
    result: dict[str, Any] | None = None  # None: no attempt reached the last step, or a later attempt has continued the run
    rate_trial: dict[str, Any] | None = None  # the losses of the learning rates that were tried, and the chosen rate (`lr`)
    before: dict[str, Any] = field(default_factory=dict)  # the scores before the first step
    predicted: dict[str, Any] = field(default_factory=dict)  # forecasts: seconds, energy_kwh, emissions_g (low, likely, high); and others
    actual: dict[str, Any] = field(default_factory=dict)  # the measured values of the quantities in `predicted`
    versions: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    larger_budget: str | None = None  # the override, key=value, with which a run that a budget stopped can continue
    folder: str | None = None  # of a recipe with stages: the path of this folder, as the stages' recipes write it
    stages: dict[str, Any] | None = None  # of a recipe with stages: a record of each stage, by its name
    trials: dict[str, dict[str, Any]] | None = None  # of a sweep: a record of each started trial, by its name
    best_trial: str | None = None
    space: dict[str, Any] | None = None  # of a sweep: the varied fields, with their values or ranges
    asked: int | None = None  # of a sweep: the number of trials that the user requested

    @property
    def last(self) -> AttemptEntry:
        """The latest attempt; an AttemptEntry with default values if there is none."""
        return self.attempts[-1] if self.attempts else AttemptEntry()

    def seconds(self, metered: Mapping[int, float]) -> float:
        """Return the sum of the wall seconds of all attempts. `metered`: seconds by attempt (from 1), which replace those in `attempts`."""
        return sum(metered.get(number, attempt.seconds or 0.0) for number, attempt in enumerate(self.attempts, 1))


def read_run_json(folder: Path) -> RunDocument:
    """Return the content of a run folder's run.json. Raises OSError, OtherVersionError, or ValueError for a damaged file."""
    return _parse(_load(folder / NAME))


def known_of(folder: Path) -> RunDocument:
    """Return the content of the run.json of a run folder; an empty RunDocument if it is missing or cannot be read."""
    with suppress(OSError, ValueError):
        return read_run_json(folder)
    return RunDocument()


def stage_folders(path: Path) -> dict[str, Path]:
    """Return the folders of a recipe's stages in `path` by name, in the recipe's order, even those not made yet; {} without stages."""
    run = known_of(path)
    return {name: path / name for name in (run.kind == CHAIN and run.stages) or ()}


def trial_folders(path: Path) -> dict[str, Path]:
    """Return the run folders of the started trials of the sweep `path` by name, in the order of run.json; {} if `path` is no sweep."""
    run = known_of(path)
    return {name: path / name for name in (run.kind == SWEEP and run.trials) or ()}


def member_folders(path: Path) -> dict[str, Path]:
    """Return the run folders of a recipe's stages or of a sweep's trials in `path` by name; {} if `path` has neither."""
    return stage_folders(path) or trial_folders(path)


def runs_within(path: Path) -> list[Path]:
    """Return the folders of all single runs in `path`, even if they do not exist yet; for a single run, `path` itself."""
    members = member_folders(path)
    return [run for member in members.values() for run in runs_within(member)] if members else [path]


def _load(path: Path) -> dict[str, Any]:
    document = strict_json.loads(read_limited(path, _LIMIT))
    if isinstance(document, dict):
        check_version(document, path, SCHEMA_VERSION)
    if not _identifies_a_run(document):
        raise ValueError("not a run.json of tfkit")
    return dict(document)


def _identifies_a_run(document: Any) -> bool:
    if not isinstance(document, dict) or not document.keys() >= _OWN_FIELDS or not isinstance(document["attempts"], list):
        return False
    return (
        all(isinstance(document[name], str) for name in ("run_id", "status"))
        and all(isinstance(one, dict) and isinstance(one.get("status"), str) for one in document["attempts"])
        and all(strict_json.is_number(one.get("seconds")) for one in document["attempts"])
        and all(isinstance(document.get(name) or {}, dict) for name in _OBJECTS)
    )


def _parse(document: Mapping[str, Any]) -> RunDocument:
    return fitting(
        RunDocument,
        document,
        fields=document,
        attempts=tuple(fitting(AttemptEntry, attempt) for attempt in document["attempts"]),
        totals=fitting(RunTotals, document.get("totals")),
        parents=parent_entries(document.get("parents")),
    )


class Receipt:
    """The writer of run.json. Methods that change the document, except `open` and `forget`, write the file or raise OSError."""

    def __init__(self, path: Path, document: dict[str, Any]):
        self.path = path
        self.document = document
        self._began: float | None = None
        self._written = -math.inf

    @classmethod
    def open(cls, path: Path, warn: Callable[[str], None], saved_step: int | None = None) -> "Receipt":
        """Read `path`, and mark attempts that are still "running" as killed; without the file, begin a new run.

        A damaged file is renamed, with a warning, and a new run begins. `saved_step`: the step of the newest checkpoint, recorded as the
        last step of a killed attempt. Raises OtherVersionError if a later version of tfkit wrote the file.
        """
        new = {"schema_version": SCHEMA_VERSION, "run_id": str(uuid.uuid4()), "name": "", "command": [], "status": "new", "attempts": []}
        try:
            document = _load(path)
        except FileNotFoundError:
            return cls(path, new)
        except OtherVersionError:
            raise
        except ValueError as error:
            aside = path.with_name(path.name + ".damaged")
            os.replace(path, aside)
            warn(
                f"{path}: unreadable ({error}); kept as {aside.name}. The run gets a new id, and its earlier attempts are no longer counted"
            )
            return cls(path, new)
        for part in (document, *document["attempts"]):
            if part["status"] == "running":
                part["status"] = "killed"
                if part is not document:
                    part["to_step"] = saved_step
        return cls(path, document)

    @property
    def running(self) -> bool:
        """Whether this process has an attempt in progress."""
        return self._began is not None

    def begin_attempt(self, fields: Mapping[str, Any]) -> None:
        """Add an attempt, which starts from step 0 unless `record_resume` is called, and set `fields` of the document."""
        assert not self.running
        self._set(fields)
        self._began = time.monotonic()
        attempts = self.document["attempts"]
        begun = {"number": len(attempts) + 1, "status": "running", "started_utc": _now(), "ended_utc": None, "seconds": 0.0}
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        attempts.append({**begun, **process, "resumed_from": None, "from_step": 0, "to_step": None, "error": None})
        self.document["status"] = "running"
        self.document.pop("larger_budget", None)
        self.write()

    def record_resume(self, resumed_from: str, step: int, fields: Mapping[str, Any]) -> None:
        """Record that the running attempt continues after `step`, from the checkpoint with this name, and set `fields` of the document."""
        assert self.running
        self._set(fields)
        self.forget("result")
        self.document["attempts"][-1].update(resumed_from=resumed_from, from_step=step)
        self.write()

    @property
    def recorded(self) -> RunDocument:
        """The present content of the document, with the duration of the running attempt until now."""
        self._update_time()
        return _parse(self.document)

    def update_time(self) -> None:
        """Write the file, with the duration of the attempt until now, if the last write was SECONDS_BETWEEN_WRITES or longer ago."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def _update_time(self) -> None:
        if self._began is not None:
            self.document["attempts"][-1]["seconds"] = round(time.monotonic() - self._began, 3)

    def forget(self, *names: str) -> None:
        """Remove fields of an earlier attempt that the present attempt makes invalid, without writing the file."""
        for name in names:
            self.document.pop(name, None)

    def confirm_finished(self) -> None:
        """Set the run's status to finished again: the attempts since it finished took no step, so the recorded result is still valid."""
        if self.document["status"] != "finished":
            self.document["status"] = "finished"
            self.write()

    def end_attempt(self, status: End, step: int | None, error: str | None, fields: Mapping[str, Any]) -> None:
        """Set `fields` of the document, and end the attempt of this process; a second call changes nothing."""
        if self._began is None:
            return
        self._set(fields)
        self._update_time()
        self._began = None
        self.document["attempts"][-1].update(status=status, ended_utc=_now(), to_step=step, error=error)
        self.document["status"] = status
        self.write()

    def record(self, fields: Mapping[str, Any]) -> None:
        """Set `fields` of the document, and write it; each value replaces the old one of its field."""
        self._set(fields)
        self.write()

    def _set(self, fields: Mapping[str, Any]) -> None:
        assert not fields.keys() & _OWN_FIELDS, "only the methods of Receipt set these fields"
        self.document.update(fields)

    def write(self) -> None:
        """Write the document to the disk."""
        self._update_time()
        self._written = time.monotonic()
        write_atomically(self.path, strict_json.dumps(self.document, indent=1) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

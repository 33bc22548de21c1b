"""run.json: a run's command, data and machine, and its attempts with their ends. Written atomically at each change.

    schema_version  run_id  name  command  status
    attempts: [{number, status, started_utc, ended_utc, seconds, host, pid, resumed_from, from_step, to_step, error}]
    versions  platform  processor  threads  commit          of the latest attempt that took steps; before any, of the latest attempt
    kind  planned_steps  before {...}  data  given {recipe, text, overrides}  result {...}  and further recorded fields
    totals {seconds, train_seconds, tokens, energy_kwh, energy_kwh_parts {cpu, gpu, ram}, emissions_g, carbon_status, place, rework_...}

`status`, of the run and of an attempt: running, stopped (by a signal or budget, can be resumed), finished, failed, killed (still
"running" at the next start; its ended_utc is unknown, thus null). A run that has not begun is "new". Times are UTC; `seconds` is
monotonic time until the file was last written, also for a killed attempt.
"""

import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tfkit.carbon.footprint import Intensity, RunTotals
from tfkit.durable import write_atomically
from tfkit.errors import OtherVersionError
from tfkit.run import strict_json
from tfkit.run.model_files import check_version

SCHEMA_VERSION = 1
SECONDS_BETWEEN_WRITES = 5.0  # of a running attempt, at least
End = Literal["stopped", "finished", "failed"]
_LARGEST = 1e30  # larger numbers count as damaged
_OWN_FIELDS = frozenset({"schema_version", "run_id", "status", "attempts"})


class Receipt:
    """The document of run.json and the rules for its attempts. Methods that change it write the file, and raise OSError if that fails."""

    def __init__(self, path: Path, document: dict[str, Any]):
        self.path = path
        self.document = document
        self._began: float | None = None
        self._written = -math.inf

    @classmethod
    def open(cls, path: Path, warn: Callable[[str], None], saved_step: int | None = None) -> "Receipt":
        """Read `path`, and mark attempts that are still "running" as killed; without the file, begin a new run.

        A damaged file is renamed, with a warning. `saved_step`: of the newest checkpoint, recorded as the last step of a killed attempt.
        Raises OtherVersionError if a later version of tfkit wrote the file.
        """
        try:
            document = read_receipt(path)
        except FileNotFoundError:
            return cls(path, _new_document())
        except OtherVersionError:
            raise
        except ValueError as error:
            aside = path.with_name(path.name + ".damaged")
            os.replace(path, aside)
            warn(
                f"{path}: unreadable ({error}); kept as {aside.name}. The run gets a new id, and its earlier attempts are no longer counted"
            )
            return cls(path, _new_document())
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
        """Add an attempt, which starts from step 0 unless `record_resume` is called, and set fields, as `record` does."""
        assert not self.running
        self._set(fields)
        self._began = time.monotonic()
        attempts = self.document["attempts"]
        attempts.append(
            {
                "number": len(attempts) + 1,
                "status": "running",
                "started_utc": _now(),
                "ended_utc": None,
                "seconds": 0.0,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "resumed_from": None,
                "from_step": 0,
                "to_step": None,
                "error": None,
            }
        )
        self.document["status"] = "running"
        self.document.pop("larger_budget", None)
        self.write()

    def record_resume(self, resumed_from: str, step: int, fields: Mapping[str, Any]) -> None:
        """Record that the running attempt continues after `step`, from the checkpoint with this name, and set fields."""
        assert self.running
        self._set(fields)
        self.forget_result()
        self.document["attempts"][-1].update(resumed_from=resumed_from, from_step=step)
        self.write()

    def seconds(self, metered: Mapping[int, float]) -> float:
        """Return the wall time of all attempts: from `metered`, by number, and for the others from this file."""
        self._update_time()
        attempts = enumerate(self.document["attempts"], 1)
        return sum(metered.get(number, attempt.get("seconds") or 0.0) for number, attempt in attempts)

    def update_time(self) -> None:
        """Write the file if SECONDS_BETWEEN_WRITES have passed, so that a kill loses no more time than that."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def _update_time(self) -> None:
        if self._began is not None:
            self.document["attempts"][-1]["seconds"] = round(time.monotonic() - self._began, 3)

    def forget_result(self) -> None:
        """Remove the result of an earlier attempt, which this attempt replaces."""
        self.document.pop("result", None)

    def end_attempt(self, status: End, step: int | None, error: str | None, fields: Mapping[str, Any]) -> None:
        """Set fields, and end the attempt of this process; a second call changes nothing."""
        if self._began is None:
            return
        self._set(fields)
        self._update_time()
        self._began = None
        self.document["attempts"][-1].update(status=status, ended_utc=_now(), to_step=step, error=error)
        self.document["status"] = status
        self.write()

    def record(self, fields: Mapping[str, Any]) -> None:
        """Set fields of the document; each value replaces the old one."""
        self._set(fields)
        self.write()

    def _set(self, fields: Mapping[str, Any]) -> None:
        assert not fields.keys() & _OWN_FIELDS, "these follow from the attempts"
        self.document.update(fields)

    def write(self) -> None:
        """Write the document to the disk."""
        self._update_time()
        self._written = time.monotonic()
        write_atomically(self.path, strict_json.dumps(self.document, indent=1) + "\n")


def read_receipt(path: Path) -> dict[str, Any]:
    """Return the document of a run.json.

    Raises OSError, ValueError if it is damaged, and OtherVersionError if a later version of tfkit wrote it.
    """
    document = strict_json.loads(path.read_bytes())
    if isinstance(document, dict):
        check_version(document, path, SCHEMA_VERSION)
    if not _is_receipt(document):
        raise ValueError("not a run's receipt")
    return dict(document)


def totals_in(document: Any) -> RunTotals:
    """Return the `totals` of a run.json of any version. A value that does not fit its field, as in a damaged file, is not known."""
    values = {}
    for name, kind in _kinds_of_totals().items() if isinstance(document, dict) else ():
        with suppress(ValidationError):
            value = _adapter(kind).validate_python(document.get(name))
            values[name] = None if isinstance(value, float) and abs(value) >= _LARGEST else value
    return RunTotals(**values)


@cache
def _kinds_of_totals() -> dict[str, Any]:
    return get_type_hints(RunTotals)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=Intensity not in get_args(kind), allow_inf_nan=False))


def _new_document() -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "run_id": str(uuid.uuid4()), "name": "", "command": [], "status": "new", "attempts": []}


def _is_receipt(document: Any) -> bool:
    if not isinstance(document, dict) or not document.keys() >= _OWN_FIELDS:
        return False
    attempts = document["attempts"]
    return (
        isinstance(document["run_id"], str)
        and isinstance(document["status"], str)
        and isinstance(attempts, list)
        and all(
            isinstance(attempt, dict) and isinstance(attempt.get("status"), str) and strict_json.is_number(attempt.get("seconds"))
            for attempt in attempts
        )
        and all(isinstance(document.get(name) or {}, dict) for name in ("totals", "result", "given", "processor", "versions"))
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

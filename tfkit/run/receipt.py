"""run.json: a run's command, data and machine, and how each of its attempts ended. Written atomically at each change.

    schema_version  run_id  name  command  status
    attempts: [{number, status, started_utc, ended_utc, seconds, host, pid, resumed_from, from_step, to_step, error}]
    versions  platform  processor  threads  commit          of the latest attempt that took steps, or of one that is to be the first
    kind  planned_steps  before {...}  data  given {recipe, text, overrides}  result {...}  and further recorded fields
    totals {seconds, train_seconds, tokens, energy_kwh, energy_kwh_parts {cpu, gpu, ram}, emissions_g, carbon_status, place, rework_...}

`status`, of the run and of an attempt: running, stopped (by a signal or budget, can be resumed), finished, failed, killed (found still
"running" by the next start: its end was not seen, so ended_utc is null). A run that has not begun is "new". Times are UTC; `seconds` is
monotonic time up to the latest writing of the file, also of a killed attempt.
"""

import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tfkit.durable import write_atomically
from tfkit.errors import OtherVersionError
from tfkit.run import strict_json
from tfkit.run.model_files import check_version

SCHEMA_VERSION = 1
SECONDS_BETWEEN_WRITES = 5.0  # of a running attempt, at least
End = Literal["stopped", "finished", "failed"]
_OWN_FIELDS = frozenset({"schema_version", "run_id", "status", "attempts"})


class Receipt:
    """The document of run.json, with the rules of its attempts. Methods that change it write the file and raise OSError if that fails."""

    def __init__(self, path: Path, document: dict[str, Any]):
        self.path = path
        self.document = document
        self._began: float | None = None
        self._written = -math.inf

    @classmethod
    def open(cls, path: Path, warn: Callable[[str], None], saved_step: int | None = None) -> "Receipt":
        """Read `path`, marking attempts that a kill left "running"; or begin a new run. A damaged file is set aside, with a warning.

        `saved_step`: of the newest checkpoint, which is as far as a killed attempt came. Raises OtherVersionError for the file of a later
        version of tfkit.
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
        """Whether this process has begun an attempt and not ended it."""
        return self._began is not None

    def begin_attempt(self, fields: Mapping[str, Any]) -> None:
        """Add an attempt, which starts from step 0 unless `goes_on` is called, and set fields, as `record` does."""
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

    def goes_on(self, resumed_from: str, step: int, fields: Mapping[str, Any]) -> None:
        """Record that the running attempt starts after `step`, from the checkpoint of that name, and set fields."""
        assert self.running
        self._set(fields)
        self.forget_result()
        self.document["attempts"][-1].update(resumed_from=resumed_from, from_step=step)
        self.write()

    def seconds(self, metered: Mapping[int, float]) -> float:
        """Return the wall time of all attempts: that of `metered`, by number, and for the others that of this file."""
        self._keep_time()
        known = {number: attempt.get("seconds") for number, attempt in enumerate(self.document["attempts"], 1)}
        return sum(metered.get(number, seconds or 0.0) for number, seconds in known.items())

    def keep_time(self) -> None:
        """Write the file if it was last written some seconds ago, so that a kill loses no more time than that."""
        if time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self.write()

    def _keep_time(self) -> None:
        if self._began is not None:
            self.document["attempts"][-1]["seconds"] = round(time.monotonic() - self._began, 3)

    def forget_result(self) -> None:
        """Remove the result of an earlier attempt, beyond which this one goes."""
        self.document.pop("result", None)

    def end_attempt(self, status: End, step: int | None, error: str | None, fields: Mapping[str, Any]) -> None:
        """Set fields, and close the attempt that this process began; a second call changes nothing."""
        if self._began is None:
            return
        self._set(fields)
        self._keep_time()
        self._began = None
        self.document["attempts"][-1].update(status=status, ended_utc=_now(), to_step=step, error=error)
        self.document["status"] = status
        self.write()

    def record(self, fields: Mapping[str, Any]) -> None:
        """Set fields of the document, each as a whole."""
        self._set(fields)
        self.write()

    def _set(self, fields: Mapping[str, Any]) -> None:
        assert not fields.keys() & _OWN_FIELDS, "these follow from the attempts"
        self.document.update(fields)

    def write(self) -> None:
        """Bring the document to the disk."""
        self._keep_time()
        self._written = time.monotonic()
        write_atomically(self.path, strict_json.dumps(self.document, indent=1) + "\n")


def read_receipt(path: Path) -> dict[str, Any]:
    """Return the document of a run.json.

    Raises OSError, ValueError for one that is damaged, and OtherVersionError for one of a later version.
    """
    document = strict_json.loads(path.read_bytes())
    if isinstance(document, dict):
        check_version(document, path, SCHEMA_VERSION)
    if not _is_receipt(document):
        raise ValueError("not a run's receipt")
    return dict(document)


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
            isinstance(each, dict) and isinstance(each.get("status"), str) and strict_json.is_number(each.get("seconds"))
            for each in attempts
        )
        and all(isinstance(document.get(name) or {}, dict) for name in ("totals", "result", "given", "processor", "versions"))
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

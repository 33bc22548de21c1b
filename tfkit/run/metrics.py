"""metrics.jsonl: one line of strict JSON a record, cut back to the checkpoint on resume. Trouble with it never stops training."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfkit.errors import MachineError
from tfkit.run import strict_json
from tfkit.run.durable import NO_FOLLOW, write_atomically


class MetricsLog:
    """Appends records, each with an integer `step`, in the order they come. Numbers that are not finite: see strict_json.

    A line reaches the kernel whole before `append` returns, so a killed process loses none. If the disk refuses (full, gone), `warn` is
    called once, no torn line is left, and the lines wait in memory for the next append.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path = path
        self._warn = warn
        self._warned = False
        self._waiting: list[bytes] = []
        self._descriptor: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. Never raises OSError."""
        assert isinstance(record.get("step"), int), "cut_back needs the step of every record"
        self._waiting.append((strict_json.dumps(record) + "\n").encode())
        try:
            if self._descriptor is None:
                self._descriptor = _open_after_last_line(self.path)
            _write_whole(self._descriptor, b"".join(self._waiting))
        except OSError as error:
            self.close()  # opening it again drops what may stand there in part
            self._complain(error)
        else:
            self._waiting.clear()

    def cut_back(self, step: int) -> None:
        """Keep the records up to and including `step`; torn or unreadable lines go too. Raises MachineError, for it is a start's work."""
        self.close()
        try:
            old = self.path.read_bytes()
            kept = b"".join(line for line in old.splitlines(keepends=True) if _is_kept(line, step))
            if kept != old:
                write_atomically(self.path, kept.decode())
        except FileNotFoundError:
            return
        except OSError as error:
            raise MachineError(
                f"{self.path}: cannot cut the metrics back to step {step} ({error.strerror}): free the disk or mend it"
            ) from error

    def sync(self) -> None:
        """Bring the lines to the disk, for the power cut after a checkpoint. Never raises OSError."""
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """Close the file; a later append opens it again. Never raises OSError."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.close(descriptor)
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"{self.path}: cannot write metrics ({error.strerror}); training goes on, and later lines are tried again")


def _is_kept(line: bytes, step: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = strict_json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step


def _open_after_last_line(path: Path) -> int:
    """Open for appending; what a killed writer left without an end of line is dropped."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | NO_FOLLOW, 0o644)
    try:
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole != os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, whole)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_whole(descriptor: int, data: bytes) -> None:
    """Append all of `data` or nothing."""
    size = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, none where there is no file; a torn last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [strict_json.loads(line) for line in lines]

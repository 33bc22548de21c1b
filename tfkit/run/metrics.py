"""metrics.jsonl: a line of strict JSON per record. A resume removes records of steps after its checkpoint. A failed write ends no run."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfkit.durable import write_atomically
from tfkit.errors import MachineError
from tfkit.regular_files import open_regular
from tfkit.run import strict_json
from tfkit.units import format_number_of

LONGEST_LINE = 32 << 20  # bytes
_BLOCK = 1 << 16  # bytes per read in the search for the last line break, from the end of the file
_LATEST_STEP = 1 << 53  # a record of this or a later step is invalid: floats represent only the integers up to this one exactly


class MetricsLog:
    """The writer of metrics.jsonl. Each record has an integer `step`. Numbers that are not finite become null (strict_json.py).

    Each line is passed to the kernel before `append` returns, so a kill loses none. If writing fails (the disk is full or gone), `warn` is
    called once, no partial line is left, and the lines are kept in memory until the next append.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path = path
        self._warn = warn
        self._warned = False
        self._waiting: list[bytes] = []
        self._descriptor: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, and those that could not be written before. Never raises OSError."""
        assert isinstance(record.get("step"), int), "cut_back reads the step of every record"
        self._waiting.append((strict_json.dumps(record) + "\n").encode())
        try:
            if self._descriptor is None:
                self._descriptor = _open_after_last_line(self.path)
            _write_all(self._descriptor, b"".join(self._waiting))
        except OSError as error:
            self.close()  # the next append opens the file again, and so removes a partial line
            self._complain(error)
        else:
            self._waiting.clear()

    def cut_back(self, step: int) -> None:
        """Remove the records of steps after `step`. Raises MachineError if the file cannot be changed, which loses no training, since the
        resumed run has taken no step yet.

        Lines that are not records are removed with a warning; a partial last line, which a kill leaves, is removed without one.
        """
        self.close()
        dropped = foreign = first_foreign = 0
        try:
            for number, (line, record) in enumerate(read_lines(self.path), 1):
                dropped += record is None or record["step"] > step
                if is_foreign(line, record):
                    foreign += 1
                    first_foreign = first_foreign or number
            if foreign:
                self._warn(f"{self.path}:{first_foreign}: not a record of a training; {format_number_of(foreign, 'such line')} left out")
            if dropped:
                write_atomically(
                    self.path, lambda: (line.decode() for line, record in read_lines(self.path) if record and record["step"] <= step)
                )
        except FileNotFoundError:
            return
        except OSError as error:
            raise MachineError(
                f"{self.path}: cannot cut the metrics back to step {step} ({error.strerror}): free some space, or check the disk"
            ) from error

    def sync(self) -> None:
        """Sync the file to the disk, so that a power cut after a checkpoint loses no record before it. Never raises OSError."""
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
            self._warn(
                f"{self.path}: cannot write metrics ({error.strerror}); training continues, and the lines are written later if possible"
            )


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, with NaN and infinities restored; None if the line is incomplete, or no record of a training."""
    try:
        record = strict_json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(record, dict) or type(step := record.get("step")) is not int or not 0 <= step < _LATEST_STEP:
        return None
    if not strict_json.is_number(record.get("loss")):
        return None
    evaluation = record.get("evaluation", {})
    if (
        not isinstance(evaluation, dict)
        or not all(map(strict_json.is_number, evaluation.values()))
        or not isinstance(record.get("samples", []), list)
    ):
        return None
    nonfinite = record.pop("nonfinite", {})
    if not isinstance(nonfinite, dict) or not all(text in ("nan", "inf", "-inf") for text in nonfinite.values()):
        return None
    for name, text in nonfinite.items():
        section, _, metric = name.partition(".")
        values, key = (evaluation, metric) if section == "evaluation" else (record, name)
        if values.get(key, "") is None:  # null, and not a finite value or a missing field, as in a damaged line
            values[key] = float(text)
    return record


def _open_after_last_line(path: Path) -> int:
    """Open the file for appending, and remove the partial last line that a killed writer may have left."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    try:
        size = end = os.fstat(descriptor).st_size
        newline = -1
        while end and newline < 0:
            begin = max(0, end - _BLOCK)
            os.lseek(descriptor, begin, os.SEEK_SET)
            newline = os.read(descriptor, end - begin).rfind(b"\n")
            end = begin + newline + 1
        if end != size:
            os.ftruncate(descriptor, end)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    """Append `data` to the file. If the disk accepts only a part of the data, remove that part and raise OSError."""
    size = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl, without the lines that are not records; yield nothing if the file does not exist."""
    with suppress(FileNotFoundError):
        yield from (record for _, record in read_lines(path) if record is not None)


def read_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each line with its record, or with None if it is not a record. Lines are read one by one, since a long training writes
    millions.

    A line longer than LONGEST_LINE is yielded in pieces, which are not records. Raises OSError, also for a pipe or a device.
    """
    with open_regular(path) as file:
        while line := file.readline(LONGEST_LINE):
            yield line, parse_record(line)


def is_foreign(line: bytes, record: dict[str, Any] | None) -> bool:
    """Return whether a line is complete and not a record. A last line without a line break is incomplete: a kill may have torn it."""
    return record is None and line.endswith(b"\n")

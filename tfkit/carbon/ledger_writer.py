"""The lines of a ledger (ledger.py), their hash chain, and their writer.

Each line has the SHA-256 of the previous line, so that changed, removed and inserted lines are detected. The hash covers the bytes between
two line breaks. A torn line, which is not a JSON object, is not part of the chain. The first line of a ledger has the hash of the last
line, at that time, of the previous ledger on the same node (null if there was none), so that a missing ledger is detected, too. A truncated
end contradicts the files derived from the ledger: emissions.csv, the totals and the next ledger.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tfkit.carbon.reading import ENERGIES, Totals
from tfkit.durable import sync_folder

FIELD = "previous"


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


def last_hash(data: bytes) -> str | None:
    """Return the hash of the last intact line, with or without a line break at the end; None if there is none."""
    for text in reversed(data.split(b"\n")):
        if parse_line(text) is not None:
            return line_hash(text)
    return None


@dataclass
class Chain:
    """The verification of the hash chain of one ledger, line by line."""

    lines: int = 0  # in the file, torn and empty ones included
    first: Any = None  # the hash in the first line, of a line of the previous ledger
    last: str | None = None  # the hash of the last intact line
    is_chained: bool | None = None  # None: no intact line yet
    broken_at: int | None = None  # the number, from 1, of the first line whose hash does not match the previous line

    def add(self, text: bytes, line: dict[str, Any] | None) -> None:
        """Add the next line of the file; `line`: the object in it, None if it is torn or damaged."""
        self.lines += 1
        if line is None:
            return
        if self.is_chained is None:
            self.is_chained, self.first = FIELD in line, line.get(FIELD)
        elif self.broken_at is None and (FIELD in line if not self.is_chained else line.get(FIELD) != self.last):
            self.broken_at = self.lines
        self.last = line_hash(text)

    @property
    def state(self) -> str:
        """Return `chained`, `unchained` (written by an older version of tfkit) or `broken at line n`."""
        if self.broken_at is not None:
            return f"broken at line {self.broken_at}"
        return "chained" if self.is_chained else "unchained"


class Ledger:
    """The writer of one ledger."""

    def __init__(self, path: Path, descriptor: int, previous: str | None):
        self.path = path
        self._descriptor = descriptor
        self._previous = previous
        self._torn = False

    @classmethod
    def create(cls, folder: Path, node: int, attempt: int, previous: str | None = None) -> Self:
        """Create a file, with a serial number if one of this attempt exists because a lock failed. Raises OSError.

        `previous`: the hash of the last line of the previous ledger on this node; None if there is none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for serial in range(1, 1000):
            path = folder / (f"{node}-{attempt}.jsonl" if serial == 1 else f"{node}-{attempt}.{serial}.jsonl")
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
                with contextlib.suppress(OSError):  # some systems cannot open a folder
                    sync_folder(folder)
                return cls(path, descriptor, previous)
        raise FileExistsError(f"{folder} holds a thousand ledgers of node {node}, attempt {attempt}")

    def append(self, line: dict[str, Any]) -> None:
        """Write and sync one line with the hash of the previous one; a line break ends a torn line before it. Raises OSError."""
        if self._torn:  # the failed line may have been written nevertheless
            self._previous = last_hash(self._written()) or self._previous
        text = json.dumps(line | {FIELD: self._previous}, ensure_ascii=False, allow_nan=False).encode()
        data = b"\n" * self._torn + text + b"\n"
        self._torn = True
        if os.write(self._descriptor, data) != len(data):
            raise OSError(f"{self.path}: only a part of a line was written")
        os.fsync(self._descriptor)
        self._torn, self._previous = False, line_hash(text)

    def _written(self) -> bytes:
        """Return the content of the file."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)


def tick_line(
    at: float, phase: str, seconds: float, totals: Totals, power_w: float, status: str, reason: str | None = None, step: int | None = None
) -> dict[str, Any]:
    """Return a tick. `reason`: the problems since the previous tick; `step`: the run can continue after that step, from here."""
    line = {"kind": "tick", "at": round(at, 3), "phase": phase, "seconds": round(seconds, 3), **asdict(totals), "power_w": power_w}
    return line | {"status": status} | ({"reason": reason} if reason else {}) | ({} if step is None else {"step": step})


def estimate_line(seconds: float, totals: Totals) -> dict[str, Any]:
    """Return the estimate for the `seconds` of an attempt that are not in `totals`, at the mean power of `totals`."""
    ratio = seconds / totals.measured_seconds
    return {"kind": "estimate", "seconds": seconds} | {name: getattr(totals, name) * ratio for name in ENERGIES}

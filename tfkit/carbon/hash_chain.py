"""The hash chain of a ledger: each line has the SHA-256 of the previous line, so that changed, removed and inserted lines are detected.

The hash covers the bytes between two line breaks. A torn line, which is not a JSON object, is not part of the chain. The first line of a
ledger has the hash of the last line, at that time, of the previous ledger on the same node (null if there was none), so that a missing
ledger is detected, too. A truncated end contradicts the files derived from the ledger: emissions.csv, the totals and the next ledger.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

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

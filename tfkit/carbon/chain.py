"""The hash chain of a ledger: each line has the SHA-256 of the line before, so a line that was changed, removed or inserted shows.

The bytes that are hashed are those between two line breaks. A torn line, which is no JSON object, is not in the chain. The first line of
a ledger has the hash of a line of the ledger before it on the same node, its last one at that moment, so that a whole ledger cannot go
unnoticed either; null if there was none. An end that is cut off shows in what was derived from it: emissions.csv, totals, the next ledger.
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
    """Return the object of a whole line; None if it was torn or damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def last_hash(data: bytes) -> str | None:
    """Return the hash of the last whole line, with or without a line break at the end; None if there is none."""
    for text in reversed(data.split(b"\n")):
        if parse_line(text) is not None:
            return line_hash(text)
    return None


@dataclass
class Chain:
    """The chain of one ledger, line by line."""

    lines: int = 0  # of the file, torn and empty ones included
    first: Any = None  # the hash in the first line: of a line of another ledger
    last: str | None = None  # the hash of the last whole line
    is_chained: bool | None = None  # None: no whole line yet
    broken_at: int | None = None  # the first line, from 1, that does not follow from the one before

    def add(self, text: bytes, line: dict[str, Any] | None) -> None:
        """Add the next line of the file; `line`: its object, None if it is not whole."""
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
        """Return `chained`, `unchained` (of an older version of tfkit) or `broken at line n`."""
        if self.broken_at is not None:
            return f"broken at line {self.broken_at}"
        return "chained" if self.is_chained else "unchained"

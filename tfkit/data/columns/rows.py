"""The rows of a source, each with its place for errors, and the two parts into which a fraction splits a source."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from tfkit.errors import DataError

PartName = Literal["train", "held_out", "all"]
SplitBy = Literal["input", "row"]
OnBadRow = Literal["error", "skip"]
BAD_ROWS_VERSION = 2  # part of the fingerprint if bad rows are skipped: raise it when other rows are bad than before
FIRST_ROWS = 1000  # are checked before anything is built from a source
_LOOKED_AT = 4_000_000  # characters, which take a tenth of a second


class Row(NamedTuple):
    """One row: all its text, its place (`corpus.jsonl:17`, or the path of a whole file), and its value for each role.

    `named`: the roles whose columns the recipe names; those of others were recognised.
    """

    text: str
    place: str
    values: Mapping[str, Any] = MappingProxyType({})  # empty if the text is all
    named: frozenset[str] = frozenset()
    key: str = ""  # its text without white space at the ends of each value
    input_key: str | None = None  # the same of what the model is given of it; None: that is all of it


class BadRow(NamedTuple):
    """A row that cannot be read: its kind, by which it is counted (`not UTF-8`), and the whole message, with place and remedy.

    `lost`: the row is a good one, but the model cannot be given it, or has no such answer: in an evaluation it counts as wrong.
    `dropped`: it says nothing, such as a tie of a preference: it is left out and counted, and is no error.
    """

    kind: str
    message: str
    lost: bool = False
    dropped: bool = False

    @property
    def place(self) -> str:
        """The row's place, with which every message begins."""
        return self.message.partition(": ")[0]

    def refusal(self) -> DataError:
        """Return the error that ends a run without bad rows."""
        return DataError(f"{self.message}, or skip bad rows with data.on_bad_row: skip")


class Skipped(NamedTuple):
    """The number of skipped rows of one kind, and the place of the first of them."""

    rows: int
    first: str


def skip(row: BadRow, skipped: dict[str, Skipped]) -> None:
    """Count a skipped row, under its kind."""
    before = skipped.get(row.kind, Skipped(0, row.place))
    skipped[row.kind] = before._replace(rows=before.rows + 1)


def describe_skipped(name: str, skipped: Mapping[str, Skipped]) -> str:
    """Describe the skipped rows of a source in words; empty if there were none."""
    total = sum(one.rows for one in skipped.values())
    kinds = ", ".join(f"{one.rows:,} {kind} (first {one.first})" for kind, one in skipped.items())
    return f"{name}: {total:,} bad row{'s' if total > 1 else ''} skipped: {kinds}" if total else ""


def good_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
    """Yield the rows without the bad ones. A bad one raises DataError; with `skip` it is counted in `skipped`, by its kind."""
    for row in rows:
        if isinstance(row, Row):
            yield row
        elif on_bad_row == "error":
            raise row.refusal()
        elif skipped is not None:
            skip(row, skipped)


def check_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, name: str, most: int = 1) -> None:
    """Check the first good rows, `most` of them or a few megabytes of text.

    Raise DataError if a bad one that may not be skipped is among or before them, or if there is no good one at all.
    """
    first: BadRow | None = None
    good = characters = 0
    for row in rows:
        if isinstance(row, Row):
            good, characters = good + 1, characters + len(row.text)
            if good == most or characters > _LOOKED_AT:
                return
        elif on_bad_row == "error":
            raise row.refusal()
        else:
            first = first or row
    if not good and first is not None:
        raise DataError(f"{name}: every row is bad; the first is {first.message}")
    if not good:
        raise DataError(f"{name}: no rows here; give a source that holds text")


def fingerprint_of(on_bad_row: OnBadRow) -> str:
    """Return the contribution of skipping to a source's fingerprint: empty if bad rows are errors, so that the source has none."""
    return "" if on_bad_row == "error" else f"\0{on_bad_row}\0{BAD_ROWS_VERSION}"


class Source(Protocol):
    """Rows in a fixed order, read as a stream: one row at a time is in memory."""

    @property
    def name(self) -> str:
        """A short name of the source, for messages and receipts."""

    @property
    def size_bytes(self) -> int:
        """The approximate bytes of the rows, for progress bars."""

    def describe(self) -> str:
        """Describe what was found: files, MB, part."""

    def fingerprint(self) -> str:
        """Return a hash of all content and of the settings that select from it: equal only if the rows are. Reads everything once."""

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part. Raise DataError with file, row and remedy; skipped bad rows are counted in `skipped` by
        their kind, and for every part, since a row without text belongs to none.
        """


@dataclass(frozen=True)
class Part:
    """One side of a held-out split of a source. Without a fraction there is one part, for every name.

    The side of a key is its hash: the same on every machine, in every order, and after rows were added. Rows with equal keys land in the
    same split. The key is a row's input (`by`), or, as in tfkit 0.1, all its text.
    """

    name: PartName
    fraction: float | None
    by: SplitBy = field(default="input", repr=False)  # its repr is part of the fingerprints of caches, and was so before it had this

    def select(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Return the rows of the part."""
        return (row for row in rows if self.keeps(self.key_of(row).encode()))

    def key_of(self, row: Row) -> str:
        """Return the key of a row."""
        return row.input_key if self.by == "input" and row.input_key is not None else row.key

    def fingerprint(self, rows: Iterable[Row | BadRow]) -> str:
        """Return the part's contribution to the fingerprint of a source with these rows: with a further word for each earlier rule by which
        a row would be in another part: `keys`, of version 0.1.0, which split rows by their texts including the white space at the ends, and
        `inputs`, of later ones, which split them by their whole texts.
        """
        if not self.is_split:
            return str(self)
        moved = {"keys": False, "inputs": False}
        for row in rows:
            if isinstance(row, Row):
                for word, other in (("keys", row.text), ("inputs", self.key_of(row))):
                    moved[word] = moved[word] or (other != row.key and self.keeps(other.encode()) != self.keeps(row.key.encode()))
        return "\0".join([str(self), *(word for word, is_moved in moved.items() if is_moved)])

    @property
    def is_split(self) -> bool:
        """Whether there are two parts, of which this is one."""
        return self.fraction is not None and self.name != "all"

    def keeps(self, key: bytes) -> bool:
        """Whether the row (or file) of this key belongs to the part."""
        if self.fraction is None or self.name == "all":
            return True
        held_out = hash_fraction(key) < self.fraction
        return held_out == (self.name == "held_out")

    @property
    def expected_fraction(self) -> float:
        """The expected fraction of the source that is in the part."""
        if self.fraction is None or self.name == "all":
            return 1.0
        return self.fraction if self.name == "held_out" else 1.0 - self.fraction

    def describe(self) -> str:
        """Describe the part in words, empty if there is only one."""
        if self.fraction is None or self.name == "all":
            return ""
        return f"{self.name.replace('_', ' ')} part, {self.expected_fraction:.2%} of the rows"


def hash_fraction(key: bytes) -> float:
    """Return a number in [0, 1) that depends on the key alone, uniform over keys."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


def megabytes(count: int) -> str:
    """Format bytes as `12.3 MB`; small ones with the digits that they need."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"

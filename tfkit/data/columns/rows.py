"""What a source gives: rows of text, each with its place for errors, and the two parts that a fraction cuts a source into."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from tfkit.errors import DataError

PartName = Literal["train", "held_out", "all"]
OnBadRow = Literal["error", "skip"]
BAD_ROWS_VERSION = 2  # part of the fingerprint where bad rows are skipped: raise it when others are bad than before
FIRST_ROWS = 1000  # are looked at before anything is built of a source
_LOOKED_AT = 4_000_000  # characters: those take a tenth of a second


class Row(NamedTuple):
    """One row: all its text, where it stands (`corpus.jsonl:17`, or the path of a whole file), and what it holds for each role.

    `named`: the roles whose columns the recipe names; those of others were recognised.
    """

    text: str
    place: str
    values: Mapping[str, Any] = MappingProxyType({})  # none where the text is all
    named: frozenset[str] = frozenset()
    key: str = ""  # its text without white space at the ends of each value: rows with equal keys land in the same split


class BadRow(NamedTuple):
    """A row that cannot be read: its kind, which is what is counted (`not UTF-8`), and the whole message, with place and remedy."""

    kind: str
    message: str

    @property
    def place(self) -> str:
        """Where it stands: what every message begins with."""
        return self.message.partition(": ")[0]

    def refusal(self) -> DataError:
        """The error that ends a run which wants no bad rows."""
        return DataError(f"{self.message}, or leave bad rows out with data.on_bad_row: skip")


class Skipped(NamedTuple):
    """How many rows of one kind were left out, and where the first of them stands."""

    rows: int
    first: str


def skip(row: BadRow, skipped: dict[str, Skipped]) -> None:
    """Count a row that is left out, under its kind."""
    before = skipped.get(row.kind, Skipped(0, row.place))
    skipped[row.kind] = before._replace(rows=before.rows + 1)


def describe_skipped(name: str, skipped: Mapping[str, Skipped]) -> str:
    """The rows of a source that were left out, in words; empty if there were none."""
    total = sum(one.rows for one in skipped.values())
    kinds = ", ".join(f"{one.rows:,} {kind} (first {one.first})" for kind, one in skipped.items())
    return f"{name}: {total:,} bad row{'s' if total > 1 else ''} skipped: {kinds}" if total else ""


def good_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
    """The rows without the bad ones. A bad one raises DataError; with `skip` it is counted in `skipped`, by its kind."""
    for row in rows:
        if isinstance(row, Row):
            yield row
        elif on_bad_row == "error":
            raise row.refusal()
        elif skipped is not None:
            skip(row, skipped)


def check_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, name: str, most: int = 1) -> None:
    """Look at the first good rows, `most` of them or a few megabytes of text.

    Raises DataError if a bad one that may not be skipped is among or before them, or if there is no good one at all.
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
    """What the treatment of bad rows adds to a source's fingerprint: nothing where they are errors, and the source has none."""
    return "" if on_bad_row == "error" else f"\0{on_bad_row}\0{BAD_ROWS_VERSION}"


class Source(Protocol):
    """Rows in a fixed order, read as a stream: one row at a time is in memory."""

    @property
    def name(self) -> str:
        """The source in a few words, for messages and receipts."""

    @property
    def size_bytes(self) -> int:
        """About how many bytes the rows hold, for progress bars."""

    def describe(self) -> str:
        """What was found: files, MB, part."""

    def fingerprint(self) -> str:
        """Equal only where the rows are equal: a hash of all content and of what chooses among it. Reads everything once."""

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Every row of the part. Raises DataError with file, row and remedy; bad rows that are left out are counted in `skipped` by
        their kind, and for every part, since a row without text belongs to none.
        """


@dataclass(frozen=True)
class Part:
    """The side of a held-out fraction that a source gives. Without a fraction there is one part, and every name means it.

    The side of a key is its hash: the same on every machine, in every order, and after rows were added. Equal keys fall on one side.
    """

    name: PartName
    fraction: float | None

    def select(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that belong to the part."""
        return (row for row in rows if self.keeps(row.key.encode()))

    def fingerprint(self, rows: Iterable[Row | BadRow]) -> str:
        """What the part adds to the fingerprint of a source with these rows: one more word where a row was in another part in version
        0.1.0, which divided rows by their texts with the white space at the ends.
        """
        if self.fraction is None or self.name == "all":
            return str(self)
        rekeyed = (row for row in rows if isinstance(row, Row) and row.key != row.text)
        moved = any(self.keeps(row.key.encode()) != self.keeps(row.text.encode()) for row in rekeyed)
        return f"{self}\0keys" if moved else str(self)

    def keeps(self, key: bytes) -> bool:
        """Whether the row (or file) of this key belongs to the part."""
        if self.fraction is None or self.name == "all":
            return True
        held_out = hash_share(key) < self.fraction
        return held_out == (self.name == "held_out")

    @property
    def share(self) -> float:
        """The expected share of the source that the part is."""
        if self.fraction is None or self.name == "all":
            return 1.0
        return self.fraction if self.name == "held_out" else 1.0 - self.fraction

    def describe(self) -> str:
        """The part in words, empty where there is only one."""
        if self.fraction is None or self.name == "all":
            return ""
        return f"{self.name.replace('_', ' ')} part, {self.share:.2%} of the rows"


def hash_share(key: bytes) -> float:
    """A number in [0, 1) that depends on the key alone, uniform over keys."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


def megabytes(count: int) -> str:
    """Bytes as `12.3 MB`; small ones with the digits that they need."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"

"""The rows of a source, each with its place for error messages; the training and held-out parts of a source; the labels in its rows."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from tfkit.errors import DataError
from tfkit.units import format_number_of

PartName = Literal["train", "held_out", "all"]
SplitBy = Literal["input", "row"]
OnBadRow = Literal["error", "skip"]
BAD_ROWS_VERSION = 3  # part of the fingerprint if bad rows are skipped: raise it when the criteria for bad rows change
FIRST_ROWS = 1000  # the most rows that are checked, or read to recognise a task, before anything is built from a source
_MAX_CHECKED = 4_000_000  # the most characters of text that are checked, which takes a tenth of a second
_MIN_LABELLED, _MAX_DISTINCT = 20, 0.9  # over 0.9 distinct labels per row in 20 or more labelled rows are names or numbers, not classes
_NUMBER = re.compile(r"-?[0-9]{1,1000}")  # int() refuses more than 4300 digits


class Row(NamedTuple):
    """One row: all its texts but labels, its place (as `corpus.jsonl:17`, or the path of a whole file), and its value for each role.

    `named`: the roles whose columns are named in the recipe; the columns of the other roles were recognised.
    """

    text: str
    place: str
    values: Mapping[str, Any] = MappingProxyType({})  # by role (recipe/schema/roles.py)
    named: frozenset[str] = frozenset()
    key: str = ""  # the text, each value without white space at its ends; of a whole file, followed by a line end
    input_key: str | None = None  # the key of the model's input alone; None: the input is the whole row


class BadRow(NamedTuple):
    """A row that cannot be used: the kind of error, such as `not UTF-8`, by which rows are counted; and the message, with place and remedy.

    `lost`: the row is valid, but the model cannot read it (a long row, for example) or answer it, so an evaluation counts it as wrong.
    `dropped`: the row has no information, such as a tie of completions or an empty text, so it is skipped and counted, never an error.
    """

    kind: str
    message: str
    lost: bool = False
    dropped: bool = False

    @property
    def place(self) -> str:
        """The place of the row, with which `message` begins."""
        return self.message.partition(": ")[0]

    def refusal(self) -> DataError:
        """Return the error to raise for this row if bad rows are not skipped."""
        return DataError(f"{self.message}, or skip bad rows with data.on_bad_row: skip")


class Skipped(NamedTuple):
    """The number of skipped rows of one kind, and the place of the first one."""

    rows: int
    first: str


def skip(row: BadRow, skipped: dict[str, Skipped]) -> None:
    """Add a row to the counts of skipped rows by kind."""
    before = skipped.get(row.kind, Skipped(0, row.place))
    skipped[row.kind] = before._replace(rows=before.rows + 1)


def describe_skipped(name: str, skipped: Mapping[str, Skipped]) -> str:
    """Return a sentence about the skipped rows of a source; empty if there are none."""
    return f"{name}: {_count(skipped, 'skipped')}" if skipped else ""


def refuse(bad_rows: Sequence[BadRow], read: int) -> DataError:
    """Return the error for the bad rows among `read` rows: the message of the first, and how many there are of each kind."""
    kinds: dict[str, Skipped] = {}
    for row in bad_rows:
        skip(row, kinds)
    counted = f"\n{_count(kinds, f'in the {read:,} rows that were read')}" if len(bad_rows) > 1 else ""
    return DataError(f"{bad_rows[0].refusal()}{counted}")


def _count(kinds: Mapping[str, Skipped], where: str) -> str:
    total = sum(count.rows for count in kinds.values())
    counts = ", ".join(f"{count.rows:,} {kind} (first {count.first})" for kind, count in kinds.items())
    return f"{format_number_of(total, 'bad row')} {where}: {counts}"


def good_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
    """Yield the good rows. A bad row raises DataError, or, if `on_bad_row` is "skip", is counted in `skipped`, by its kind."""
    for row in rows:
        if isinstance(row, Row):
            yield row
        elif on_bad_row == "error":
            raise row.refusal()
        elif skipped is not None:
            skip(row, skipped)


def check_rows(rows: Iterable[Row | BadRow], on_bad_row: OnBadRow, name: str, most: int = 1) -> None:
    """Check the first `most` rows (if bad rows are skipped, up to the `most`-th good row), but only until 4 million characters are read.

    Raises DataError if none of these rows is good, and, unless bad rows are skipped, if one of them is bad.
    """
    bad: list[BadRow] = []
    good = characters = 0
    for row in rows:
        if isinstance(row, Row):
            good, characters = good + 1, characters + len(row.text)
        elif on_bad_row == "error" or not bad:
            bad.append(row)
        if good == most or characters > _MAX_CHECKED or (on_bad_row == "error" and good + len(bad) >= most):
            break
    if bad and on_bad_row == "error":
        raise refuse(bad, good + len(bad))
    if bad and not good:
        raise DataError(f"{name}: every row is bad; the first is {bad[0].message}")
    if not good:
        raise DataError(f"{name}: no rows here; give a source that holds text")


def fingerprint_of(on_bad_row: OnBadRow) -> str:
    """Return the contribution of `on_bad_row` to a source's fingerprint: empty if bad rows are errors."""
    return "" if on_bad_row == "error" else f"\0{on_bad_row}\0{BAD_ROWS_VERSION}"


class Source(Protocol):
    """Rows in a fixed order, read as a stream. Only a source that joins rows (derived_rows.py) has all of its rows in memory."""

    @property
    def name(self) -> str:
        """A short name of the source, for messages and the run's record (run.json)."""

    @property
    def size_bytes(self) -> int | None:
        """The approximate bytes of the rows, for progress bars; None if unknown, as for compressed files and for a sample of rows."""

    def describe(self) -> str:
        """Return a description of the data found, for messages: the number of files or rows, their size, and the part that is read."""

    def fingerprint(self) -> str:
        """Return a hash of all content and of the settings that select rows. Equal hashes mean equal rows. This may read all data."""

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of this part of the data. Raises DataError for a bad row, unless bad rows are skipped. `skipped` counts
        the skipped rows of the whole data by kind, since a row that cannot be read belongs to no part.
        """


@dataclass(frozen=True)
class Part:
    """The training or the held-out part of a source. A part that is named `all` or has no fraction is the whole source.

    The hash of a row's key decides its part, so a split is the same on every machine, in any order of the rows, and after rows are added.
    Rows with equal keys land in the same part. The key is the row's input, or all its text (`by="row"`, as in tfkit 0.1).
    """

    name: PartName
    fraction: float | None
    by: SplitBy = field(default="input", repr=False)  # not in the repr, whose hash finds caches, also those of tfkit 0.1, which had no `by`

    def select(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows that are in the part."""
        return (row for row in rows if self.keeps(self.key_of(row).encode()))

    def key_of(self, row: Row) -> str:
        """Return the key of a row, whose hash decides in which part the row is."""
        return row.input_key if self.by == "input" and row.input_key is not None else row.key

    def fingerprint(self, rows: Iterable[Row | BadRow]) -> str:
        """Return the part's contribution to the fingerprint of a source with these rows.

        If an earlier version would put a row into the other part, the name of that version's rule is added, so that its caches are not
        used: `keys` for version 0.1.0, which did not strip texts of white space; `inputs` for later versions, which hashed whole rows.
        """
        if not self.is_split:
            return str(self)
        moved = {"keys": False, "inputs": False}
        for row in rows:
            if isinstance(row, Row):
                for rule, key in (("keys", row.text), ("inputs", self.key_of(row))):
                    moved[rule] = moved[rule] or (key != row.key and self.keeps(key.encode()) != self.keeps(row.key.encode()))
        return "\0".join([str(self), *(rule for rule, is_moved in moved.items() if is_moved)])

    @property
    def is_split(self) -> bool:
        """Whether the part is only a part of the source, not the whole source."""
        return self.fraction is not None and self.name != "all"

    def keeps(self, key: bytes) -> bool:
        """Whether a row (or file) with this key belongs to the part."""
        if self.fraction is None or self.name == "all":
            return True
        held_out = hash_fraction(key) < self.fraction
        return held_out == (self.name == "held_out")

    @property
    def expected_fraction(self) -> float:
        """The expected fraction of the source's rows that are in the part."""
        if self.fraction is None or self.name == "all":
            return 1.0
        return self.fraction if self.name == "held_out" else 1.0 - self.fraction

    def describe(self) -> str:
        """Return a description of the part; empty if it is the whole source."""
        if self.fraction is None or self.name == "all":
            return ""
        return f"{self.name.replace('_', ' ')} part, {self.expected_fraction:.2%} of the rows"


def hash_fraction(key: bytes) -> float:
    """Return a number in [0, 1) that depends only on the key, uniformly distributed over keys."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48


def find_labels(sources: Sequence[Source], labels_in: Callable[[Any], Iterable[str]] = tuple) -> list[str]:
    """Return the distinct labels of the rows, sorted: first integers, by value, then other labels, alphabetically.

    `labels_in` returns the single labels in a row's `labels` (a list, a text or a mapping). Raises DataError if there are fewer than
    two labels, or, in 20 or more rows with a `label`, almost as many labels as rows.
    """
    labels: set[str] = set()
    labelled = 0
    for source in sources:
        for row in source.rows():
            if "label" in row.values:
                labelled += 1
                labels.add(str(row.values["label"]))  # str() of a ClassName is a plain text, without its number
            labels.update(map(str, row.values.get("tags", ())))
            labels.update(labels_in(row.values.get("labels", ())))
    names = ", ".join(dict.fromkeys(source.name for source in sources))
    if len(labels) < 2:
        only = f"only the label {labels.pop()!r}" if labels else "no label"
        raise DataError(f"{names}: {only} in all rows, so there is nothing to classify; check the column of the labels")
    if labelled >= _MIN_LABELLED and len(labels) > _MAX_DISTINCT * labelled:
        raise DataError(
            f"{names}: {len(labels):,} different labels in {labelled:,} rows, so hardly any class has two rows; name the column of the "
            "classes with columns: {label: NAME}; for numbers set objective={kind: classification, regression: true}; if these are the "
            "classes, name them in objective.labels"
        )
    # The sort keys of the labels 1 and 01 differ only in the last item, the label itself.
    return sorted(labels, key=lambda label: (False, int(label), label) if _NUMBER.fullmatch(label) else (True, 0, label))

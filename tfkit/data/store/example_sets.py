"""Labelled rows as the model reads them: each row an example of its own, encoded once by an objective, and cached.

An example is a few arrays (ids, labels, segments ...), the same ones for every row. Folder of the cache: for each array `<name>.bin`
(int32, or the type that the encoder gives it) and `<name>.starts.bin` (int64, examples + 1); lengths.bin, texts.bin (a hash of each
row's text), places.bin; index.json, written last; hashes.json. All little-endian.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import BadRow, OnBadRow, Part, Row, Skipped, Source, describe_skipped, skip
from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.folder_index import indexed_folder, write_index
from tfkit.data.store.hashes import HashedArray, HashedFiles
from tfkit.data.store.overlap import text_hash
from tfkit.data.store.token_stream import check_ids
from tfkit.errors import DataError

EXAMPLES_VERSION = 2  # part of the fingerprint: raise it when the same rows and encoder give other examples
_BATCH = 512  # rows that are encoded at once
_OWN = frozenset({"lengths", "texts", "places"})  # files beside those of the arrays


class Encoded(NamedTuple):
    """A row as arrays. A plain sequence is of whole numbers, kept as int32; an array keeps its type, of booleans or numbers, the same for
    every row. `length` is the number of tokens that the model reads of it; `truncated`: some were cut off.

    `unread`: the number of further, equally good targets of the row, which are left out.
    """

    arrays: Mapping[str, Sequence[int] | NDArray[Any]]
    length: int
    truncated: bool = False
    unread: int = 0

    def example(self) -> "Example":
        """Return the arrays as a set keeps them."""
        return {name: _fixed(numbers) for name, numbers in self.arrays.items()}


@runtime_checkable
class Encoder(Protocol):
    """Turns rows into examples."""

    def fingerprint(self) -> str:
        """Return a hash that is equal only where the same rows give the same examples."""

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return for each row an example, or its error."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The arrays that hold token ids."""


Example = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExampleSet:
    """All examples of a source, memory-mapped."""

    name: str  # of the source
    arrays: Mapping[
        str, tuple[NDArray[Any] | HashedArray, NDArray[np.int64]]
    ]  # the numbers of all examples, and where each begins (+ the end)
    lengths: NDArray[np.int32]  # (examples,) tokens
    texts: NDArray[np.uint64]  # (examples,) a hash of each row's text
    places: tuple[NDArray[np.uint8], NDArray[np.int64]]  # of the rows, as UTF-8, and where each begins (+ the end)
    max_id: int
    fingerprint: str
    cached: bool  # whether it was in the cache
    truncated: int = 0
    first_truncated: str = ""  # place of the first such row
    unread: int = 0  # targets that are in no example: a row has one
    skipped: Mapping[str, Skipped] = field(default_factory=dict)  # rows that were left out, by kind

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Example:
        """Return example i."""
        return {name: numbers[starts[i] : starts[i + 1]] for name, (numbers, starts) in self.arrays.items()}

    def place(self, i: int) -> str:
        """Return the place of example i's row."""
        names, starts = self.places
        return bytes(names[starts[i] : starts[i + 1]]).decode()

    def describe(self) -> str:
        """Describe how many rows were kept, truncated and left out."""
        about = f"{self.name}: {len(self):,} row{'s' if len(self) > 1 else ''}"
        if self.truncated:
            about += f", {self.truncated:,} of them truncated (first {self.first_truncated})"
        if self.unread:
            about += f"; of several targets of a row the first is used, {self.unread:,} more left out"
        return about

    def describe_skipped(self) -> str:
        """Describe the rows that were left out; empty if there were none."""
        return describe_skipped(self.name, self.skipped)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ModelError if an id has no row in an embedding of `vocab_size` rows."""
        check_ids(self.name, self.max_id, vocab_size)

    def check_targets(self) -> None:
        """Check nothing: an encoder refuses a row without a target."""


def example_set(
    source: Source,
    encoder: Encoder,
    on_bad_row: OnBadRow,
    progress: Callable[[int], None] | None = None,
    *,
    keeps_lost: bool = False,
) -> ExampleSet:
    """Return the examples of a source, from the cache or built there. Raises DataError on a bad row that is not skipped, and for no rows.

    `progress` is called with the bytes of text done since its last call, and may raise to stop. `keeps_lost`: lost rows are skipped in any
    case, for an evaluation that counts them itself.
    """
    content = f"{EXAMPLES_VERSION}\0{source.fingerprint()}\0{encoder.fingerprint()}\0{on_bad_row}{'+lost' * keeps_lost}"
    fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "examples" / fingerprint
    index, built = indexed_folder(
        folder, EXAMPLES_VERSION, lambda path: _write(path, source, encoder, on_bad_row, progress, keeps_lost=keeps_lost)
    )
    return _load(folder, index, fingerprint, cached=not built)


def _write(
    folder: Path, source: Source, encoder: Encoder, on_bad_row: OnBadRow, progress: Callable[[int], None] | None, *, keeps_lost: bool
) -> None:
    """Fill an empty folder; the index is written last."""
    skipped: dict[str, Skipped] = {}
    truncated = unread = max_id = 0
    first_bad = first_truncated = ""
    with ExitStack() as files:
        writers = _Writers(folder, files)
        found_rows = source.rows(skipped)
        while rows := list(islice(found_rows, _BATCH)):
            for row, found in zip(rows, encoder.encode(rows), strict=True):
                if isinstance(found, BadRow):
                    if on_bad_row == "error" and not (found.dropped or (keeps_lost and found.lost)):
                        raise found.refusal()
                    skip(found, skipped)
                    first_bad = first_bad or found.message
                    continue
                writers.append(row, found)
                truncated += found.truncated
                first_truncated = first_truncated or (row.place if found.truncated else "")
                unread += found.unread
                max_id = max([max_id, *(max(found.arrays[name], default=0) for name in encoder.ids)])
            if progress is not None:
                progress(sum(len(row.text.encode()) for row in rows))
        if not writers.examples:
            if first_bad:
                raise DataError(f"{source.name}: every row is bad; the first is {first_bad}")
            raise DataError(f"{source.describe()}: no rows here{_why_none(source)}")
        names = writers.finish()
    facts = {
        "source": source.name,
        "arrays": names,
        "dtypes": writers.dtypes,
        "examples": writers.examples,
        "truncated": truncated,
        "first_truncated": first_truncated,
        "unread": unread,
        "skipped": skipped,
        "max_id": max_id,
    }
    write_index(folder, EXAMPLES_VERSION, facts)


def _why_none(source: Source) -> str:
    """Return why a part of a source has no rows, and what to do: the rows of an input are in one part, and the inputs may be few."""
    source = getattr(source, "source", source)  # of rows that are joined
    part = getattr(source, "part", None)
    if isinstance(part, Part) and part.is_split and part.by == "input":
        whole: Any = replace(source, part=replace(part, name="all"))  # type: ignore[type-var]
        keys = [part.key_of(row) for row in whole.rows({})]
        if len(inputs := {*keys}) < len(keys):
            few = (
                "all rows have the same input" if len(inputs) == 1 else f"the {len(keys):,} rows have only {len(inputs):,} different inputs"
            )
            return (
                f": {few}, and the rows of one input are held out together; hold out single rows with data.split_by=row, name other rows "
                "as data.validation, or set it to null to hold out none"
            )
    return "; give a source that holds some, or a larger fraction of it"


class _Writers:
    """The files of a folder while it grows."""

    def __init__(self, folder: Path, files: ExitStack):
        self.folder, self.files = folder, files
        self.open: dict[str, IO[bytes]] = {}
        self.ends: dict[str, int] = {}
        self.dtypes: dict[str, str] = {}  # of the arrays
        self.examples = 0

    def append(self, row: Row, found: Encoded) -> None:
        """Add an example."""
        assert not self.examples or self._names() == sorted(found.arrays), "every example has the same arrays"
        assert _OWN.isdisjoint(found.arrays), "these files are the folder's own"
        for name, kept in sorted(found.example().items()):
            assert self.dtypes.setdefault(name, kept.dtype.str) == kept.dtype.str, "every example has arrays of the same types"
            self._add(name, kept.tobytes(), len(kept))
        place = row.place.encode(errors="replace")
        self._add("places", place, len(place))
        self._file("lengths").write(np.array([found.length], "<i4").tobytes())
        self._file("texts").write(text_hash(row.text))
        self.examples += 1

    def finish(self) -> list[str]:
        """Write where the last example ends, and return the names of the arrays."""
        for name, end in self.ends.items():
            self._file(f"{name}.starts").write(np.array([end], "<i8").tobytes())
        return self._names()

    def _names(self) -> list[str]:
        return sorted(self.ends.keys() - {"places"})

    def _add(self, name: str, content: bytes, count: int) -> None:
        end = self.ends.get(name, 0)
        self._file(f"{name}.starts").write(np.array([end], "<i8").tobytes())
        self._file(name).write(content)
        self.ends[name] = end + count

    def _file(self, name: str) -> IO[bytes]:
        if name not in self.open:
            self.open[name] = self.files.enter_context((self.folder / f"{name}.bin").open("wb"))
        return self.open[name]


def _fixed(numbers: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """An array of an example, little-endian: of its own type, or of int32 where an encoder gives a plain sequence."""
    if isinstance(numbers, np.ndarray):
        assert (numbers.ndim, numbers.dtype.kind in "biufc") == (1, True), "an array is a row of booleans or numbers"
        return numbers.astype(numbers.dtype.newbyteorder("<"))
    assert not any(isinstance(number, float) for number in numbers[:1]), "int32 would cut them; give an array of the type to keep"
    return np.array(numbers, "<i4")


def _load(folder: Path, index: dict[str, Any], fingerprint: str, cached: bool) -> ExampleSet:
    files = HashedFiles(folder)

    def compared(name: str, dtype: str) -> NDArray[Any]:
        return files.compared(f"{name}.bin", dtype)

    return ExampleSet(
        name=index["source"],
        arrays={name: (files.array(f"{name}.bin", index["dtypes"][name]), compared(f"{name}.starts", "<i8")) for name in index["arrays"]},
        lengths=compared("lengths", "<i4"),
        texts=compared("texts", "<u8"),
        places=(compared("places", "u1"), compared("places.starts", "<i8")),
        max_id=index["max_id"],
        fingerprint=fingerprint,
        cached=cached,
        truncated=index["truncated"],
        first_truncated=index["first_truncated"],
        unread=index["unread"],
        skipped={kind: Skipped(*found) for kind, found in index["skipped"].items()},
    )


def examples(sets: Sequence[ExampleSet]) -> Iterator[tuple[str, Example]]:
    """Yield every example with its place, set after set."""
    for one in sets:
        for i in range(len(one)):
            yield one.place(i), one[i]

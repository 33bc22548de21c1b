"""The examples of a source: an objective encodes each row once, as one example, which is cached.

An example is a few arrays (ids, labels, segments ...), with the same names for every row. A folder of the cache has for each array
`<name>.bin` (int32, or the encoder's type) and `<name>.starts.bin` (int64, examples + 1); lengths.bin; texts.bin (a hash of each row's
text); places.bin, places.starts.bin (rows' places: `a.jsonl:17`); index.json, written after these; hashes.json. Arrays are little-endian.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tfkit.data.columns.rows import BadRow, OnBadRow, Part, Row, Skipped, Source, refuse, skip
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, write_index
from tfkit.data.store.hashes import HashedArray, HashedFiles, digest, text_hash
from tfkit.errors import DataError
from tfkit.units import format_number_of

Example = dict[str, NDArray[Any]]  # arrays by name
EXAMPLES_VERSION = 2  # part of the fingerprint: raise it when the same rows and encoder give other examples
_BATCH = 512  # the most rows that are encoded in one call of the encoder
_RESERVED = frozenset({"lengths", "texts", "places"})  # names of files, which no array of the examples may have


class Encoded(NamedTuple):
    """An encoded row. In `arrays`, a plain sequence has integers and is stored as int32; a numpy array of booleans or numbers keeps its
    type, which must be the same for every row.
    """

    arrays: Mapping[str, Sequence[int] | NDArray[Any]]
    length: int  # the number of tokens that the model reads
    truncated: bool = False  # whether tokens were cut off
    unread: int = 0  # how many more targets the row has, equally valid but not used, since an example has only one

    def example(self) -> Example:
        """Return the arrays as an ExampleSet stores them."""
        return {name: _to_stored_type(numbers) for name, numbers in self.arrays.items()}


@runtime_checkable
class Encoder(Protocol):
    """An objective's encoder, which turns rows into examples."""

    def fingerprint(self) -> str:
        """Return a hash. Encoders with equal hashes give equal examples for equal rows."""

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return, for each row, the encoded row, or a BadRow if the row cannot be encoded."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the arrays that hold token ids."""
        return ("input_ids",)


@dataclass(frozen=True)
class ExampleSet:
    """All examples of a source, memory-mapped."""

    name: str  # the name of the source
    arrays: Mapping[str, tuple[NDArray[Any] | HashedArray, NDArray[np.int64]]]  # by name: all values, and (examples + 1,) where each begins
    lengths: NDArray[np.int32]  # (examples,) the number of tokens that the model reads of each
    texts: NDArray[np.uint64]  # (examples,) a hash of each row's text
    places: tuple[NDArray[np.uint8], NDArray[np.int64]]  # the places of all rows, joined, as UTF-8, and (examples + 1,) where each begins
    max_id: int  # the largest token id
    fingerprint: str
    cached: bool  # whether the set was already in the cache
    truncated: int = 0
    first_truncated: str = ""  # place of the first truncated row
    unread: int = 0  # the number of targets that are not used, since an example has only one
    moved: Callable[[str], str] = str  # corrects the folder in a place, if the files were moved after their rows were cached
    skipped: Mapping[str, Skipped] = field(default_factory=dict)  # skipped rows, by kind

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Example:
        """Return example i."""
        return {name: numbers[starts[i] : starts[i + 1]] for name, (numbers, starts) in self.arrays.items()}

    def place(self, i: int) -> str:
        """Return the place of example i's row, such as `rows.jsonl:17`."""
        names, starts = self.places
        return self.moved(bytes(names[starts[i] : starts[i + 1]]).decode())

    def describe(self) -> str:
        """Return a description with the numbers of rows, of truncated rows, and of targets that are not used."""
        about = f"{self.name}: {format_number_of(len(self), 'row')}"
        if self.truncated:
            about += f", {self.truncated:,} of them truncated (first {self.first_truncated})"
        if self.unread:
            about += f"; of several targets of a row the first is used, {self.unread:,} more left out"
        return about


def example_set(
    source: Source, encoder: Encoder, on_bad_row: OnBadRow, progress: Callable[[int], None] | None = None, *, keeps_lost: bool = False
) -> ExampleSet:
    """Return the examples of a source from the cache, or build them there. Raises DataError for a bad row that is not skipped, and if there
    are no good rows.

    `progress` is called with the number of bytes of text encoded since its last call; an exception that it raises stops the encoding.
    `keeps_lost`: skip lost rows (`BadRow.lost`) even if `on_bad_row` is "error", for an evaluation that counts them as wrong.
    """
    skips = f"{on_bad_row}{'+lost' * keeps_lost}"
    fingerprint = digest(EXAMPLES_VERSION, source.fingerprint(), encoder.fingerprint(), skips)
    folder = cache_folder() / "examples" / fingerprint
    index, files, built = indexed_folder(
        folder, EXAMPLES_VERSION, lambda path: _write(path, source, encoder, on_bad_row, progress, keeps_lost=keeps_lost)
    )
    return _load(source.name, _folder_of(source), index, files, fingerprint, cached=not built)


def _write(
    folder: Path, source: Source, encoder: Encoder, on_bad_row: OnBadRow, progress: Callable[[int], None] | None, *, keeps_lost: bool
) -> None:
    """Write the examples into an empty folder; the index is written last."""
    skipped: dict[str, Skipped] = {}
    truncated = unread = max_id = 0
    first_bad = first_truncated = ""
    with ExitStack() as files:
        writers = _Writers(folder, files)
        source_rows = source.rows(skipped)
        while rows := list(islice(source_rows, _BATCH)):
            examples = encoder.encode(rows)
            bad_rows = [one for one in examples if isinstance(one, BadRow) and not (one.dropped or (keeps_lost and one.lost))]
            if bad_rows and on_bad_row == "error":
                raise refuse(bad_rows, len(rows))
            for row, encoded in zip(rows, examples, strict=True):
                if isinstance(encoded, BadRow):
                    skip(encoded, skipped)
                    first_bad = first_bad or encoded.message
                    continue
                writers.append(row, encoded)
                truncated += encoded.truncated
                first_truncated = first_truncated or (row.place if encoded.truncated else "")
                unread += encoded.unread
                max_id = max([max_id, *(max(encoded.arrays[name], default=0) for name in encoder.ids)])
            folder.stat()  # if the cache was deleted, raises FileNotFoundError now rather than after the last row
            if progress is not None:
                progress(sum(len(row.text.encode()) for row in rows))
        if not writers.examples:
            if first_bad:
                raise DataError(f"{source.name}: every row is bad; the first is {first_bad}")
            raise no_rows(source)
        names = writers.finish()
    facts = {
        "source": source.name,
        "folder": _folder_of(source),
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


def no_rows(source: Source) -> DataError:
    """Return the error for a part without rows. If rows of the source share their input, the error says that such rows are in one part."""
    problem = f"{source.describe()}: no rows here"
    source = getattr(source, "source", source)  # DerivedRows have an inner source
    part = getattr(source, "part", None)
    if isinstance(part, Part) and part.is_split and part.by == "input":
        whole: Any = replace(source, part=replace(part, name="all"))  # type: ignore[type-var]
        keys = [part.key_of(row) for row in whole.rows({})]
        if len(inputs := {*keys}) < len(keys):
            few = (
                "all rows have the same input" if len(inputs) == 1 else f"the {len(keys):,} rows have only {len(inputs):,} different inputs"
            )
            return DataError(
                f"{problem}: {few}, and the rows of one input are held out together; hold out single rows with data.split_by=row, name "
                "other rows as data.validation, or set it to null to hold out none"
            )
    return DataError(f"{problem}; give a source that holds some, or a larger fraction of it")


class _Writers:
    """Writers of the files of an example set's folder."""

    def __init__(self, folder: Path, files: ExitStack):
        self.folder, self.files = folder, files
        self.open: dict[str, IO[bytes]] = {}
        self.ends: dict[str, int] = {}
        self.dtypes: dict[str, str] = {}  # the types of the arrays, by name
        self.examples = 0

    def append(self, row: Row, encoded: Encoded) -> None:
        """Write an example."""
        assert not self.examples or self._names() == sorted(encoded.arrays), "every example has the same arrays"
        assert _RESERVED.isdisjoint(encoded.arrays), f"arrays may not be called {', '.join(sorted(_RESERVED))}"
        for name, values in sorted(encoded.example().items()):
            assert self.dtypes.setdefault(name, values.dtype.str) == values.dtype.str, "every example has arrays of the same types"
            self._add(name, values.tobytes(), len(values))
        place = row.place.encode(errors="replace")
        self._add("places", place, len(place))
        self._file("lengths").write(np.array([encoded.length], "<i4").tobytes())
        self._file("texts").write(text_hash(row.text))
        self.examples += 1

    def finish(self) -> list[str]:
        """Write the offset at which the last example ends in each array, and return the names of the arrays."""
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


def _to_stored_type(numbers: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """Return an array of an example in the type in which it is stored: its own, or int32 for a plain sequence; little-endian."""
    if isinstance(numbers, np.ndarray):
        assert (numbers.ndim, numbers.dtype.kind in "biufc") == (1, True), "an array is a vector of booleans or numbers"
        return numbers.astype(numbers.dtype.newbyteorder("<"))
    assert not any(isinstance(number, float) for number in numbers[:1]), "int32 would truncate them; return an array of the type to store"
    return np.array(numbers, "<i4")


def _folder_of(source: Source) -> str | None:
    """Return the common folder of a source's files, with which the places of its rows begin; None if its rows are not from files."""
    while (inner := getattr(source, "source", None)) is not None:  # DerivedRows have an inner source
        source = inner
    paths: Sequence[Path] = getattr(source, "paths", ())
    return os.path.commonpath([path.parent for path in paths]) if paths else None


def _load(name: str, folder: str | None, index: dict[str, Any], files: HashedFiles, fingerprint: str, cached: bool) -> ExampleSet:
    before: str | None = index.get("folder")  # None: the rows are not from files, or tfkit 0.1 cached them

    def moved(place: str) -> str:
        if folder is None or before is None or folder == before or not PurePath(place).is_relative_to(before):
            return place
        return str(PurePath(folder, PurePath(place).relative_to(before)))

    def verified(name: str, dtype: str) -> NDArray[Any]:
        return files.verified_array(f"{name}.bin", dtype)

    return ExampleSet(
        name=name,
        arrays={name: (files.array(f"{name}.bin", index["dtypes"][name]), verified(f"{name}.starts", "<i8")) for name in index["arrays"]},
        lengths=verified("lengths", "<i4"),
        texts=verified("texts", "<u8"),
        places=(verified("places", "u1"), verified("places.starts", "<i8")),
        max_id=index["max_id"],
        fingerprint=fingerprint,
        cached=cached,
        truncated=index["truncated"],
        first_truncated=moved(index["first_truncated"]),
        unread=index["unread"],
        moved=moved,
        skipped={kind: Skipped(count, moved(first)) for kind, (count, first) in index["skipped"].items()},
    )

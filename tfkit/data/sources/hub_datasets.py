"""A data set of the Hugging Face Hub, or a local data set folder, through the library `datasets` (imported only here, when used).

A streamed data set is read once: its records are written to tfkit's cache, and read from there afterwards. A folder of the cache has
records.jsonl, whose lines are records of the columns that are read (an earlier version wrote several such files), and index.json, written
after it, with the class names, since the records hold only the numbers of classes. Later runs read the folder without the network, even if
the data set has changed on the Hub; to stream the data set again, delete the folder, or set another revision in the recipe.
"""

import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

from tfkit.data.columns.forms import ClassName
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import FIRST_ROWS, BadRow, OnBadRow, Part, Row, Skipped, check_rows, fingerprint_of, good_rows
from tfkit.data.formats.readers import Rows
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, read_index, reading_cache, write_index
from tfkit.data.store.hashes import digest
from tfkit.errors import DataError, first_line
from tfkit.network import fetch, is_offline
from tfkit.units import format_bytes, format_number_of

_BATCH = 256  # the most rows that are decoded from Arrow in one call
RECORDS_VERSION = 3  # part of the name of a cache folder: raise it when the same data set gives other records


@dataclass(frozen=True)
class HubSource:
    """The rows of one split of a data set. Its Arrow files are memory-mapped, so a row is only read when it is needed."""

    name: str
    split: str
    columns: Columns
    part: Part
    dataset: Any  # datasets.Dataset, from load_dataset
    on_bad_row: OnBadRow = "error"

    @property
    def size_bytes(self) -> int:
        """The Arrow bytes of all columns, times the part's fraction of the rows."""
        return int((self.dataset.data.nbytes or 0) * self.part.expected_fraction)

    def describe(self) -> str:
        """Return a description of the split, for messages: its number of rows, their size, and the part of them that is read."""
        about = f"{self._where}: {format_number_of(len(self.dataset), 'row')}, {format_bytes(self.dataset.data.nbytes)}"
        return f"{about}; {self.part.describe()}" if self.part.describe() else about

    def fingerprint(self) -> str:
        """Return a hash of the rows' values, the columns, the part and the handling of bad rows, but not of where the data set is."""
        hashed = hashlib.blake2b(
            f"hub\0{self.columns.fingerprint()}\0{self.part.fingerprint(self._all_rows())}{fingerprint_of(self.on_bad_row)}".encode(),
            digest_size=16,
        )
        for row in good_rows(self._all_rows(), self.on_bad_row):
            content = json.dumps(row.values, sort_keys=True, default=str).encode()  # a message may have dates among its fields
            hashed.update(len(content).to_bytes(8, "little"))
            hashed.update(content)
        return hashed.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part. The place of a row has its index, from 0, as in the hub's data set viewer."""
        return self.part.select(good_rows(self._all_rows(), self.on_bad_row, skipped))

    def check(self) -> None:
        """Raise DataError if a required role has no column, one of the first rows is bad and bad rows are not skipped, or none is good."""
        check_rows(self._all_rows(), self.on_bad_row, self._where, FIRST_ROWS)

    def _all_rows(self) -> Rows:
        names = self.dataset.column_names
        self.columns.check(names, self._where)
        wanted = self.dataset.select_columns(self.columns.select_kept(names))
        classes = class_names(wanted.features)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            for number, values in enumerate(zip(*batch.values(), strict=True), start):
                record = with_class_names(dict(zip(batch, values, strict=True)), classes)
                yield self.columns.take(Record(record, f"{self._where}, row {number}"))

    @property
    def _where(self) -> str:
        return f"{self.name}, split {self.split}"


@dataclass(frozen=True)
class StreamedSource:
    """The first `most` rows of a streamed split, or all rows if `most` is None. Once they are cached, only the cache is read."""

    name: str
    config: str | None
    split: str
    revision: str | None
    most: int | None
    columns: Columns
    part: Part
    on_bad_row: OnBadRow

    @cached_property
    def folder(self) -> Path:
        """The cache folder. Its name is a hash of what selects the records, and of the sizes and modification times of local files."""
        path = Path(os.path.expanduser(self.name))
        found = [(file, file.stat()) for file in path.rglob("*") if file.exists()]  # a broken link does not exist
        files = sorted((str(file.relative_to(path)), status.st_size, status.st_mtime_ns) for file, status in found)
        read = [(role.name, self.columns.named.get(role.name, role.columns)) for role in self.columns.roles]
        selection = (self.config, self.split, self.revision, self.most, read, *self.columns.beyond_roles)
        return cache_folder() / "streamed" / digest((RECORDS_VERSION, str(path), files, *selection))

    @property
    def size_bytes(self) -> int | None:
        """The bytes of the records, times the part's fraction; None if they are not yet in the cache."""
        index = read_index(self.folder, RECORDS_VERSION)
        return int(sum(index["files"].values()) * self.part.expected_fraction) if index else None

    def describe(self) -> str:
        """Return a description of the split, for messages: how many rows are or will be cached, and the part of them that is read."""
        index = read_index(self.folder, RECORDS_VERSION)
        about = f"{self._where}, streamed: "
        if index is None:
            about += f"{'all' if self.most is None else f'{self.most:,}'} rows, which are read into the cache first"
        else:
            about += f"{index['records']:,} rows, {format_bytes(sum(index['files'].values()))}, from the cache"
        return f"{about}; {self.part.describe()}" if self.part.describe() else about

    def fingerprint(self) -> str:
        """Return a hash of the records, the columns, the part and the handling of bad rows."""
        part = self.part.fingerprint(self._all_rows())
        return digest(self._records()["content"], self.columns.fingerprint(), f"{part}{fingerprint_of(self.on_bad_row)}")

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part. The place of a row has its index, from 0, as in the hub's data set viewer."""
        return self.part.select(good_rows(self._all_rows(), self.on_bad_row, skipped))

    def check(self) -> None:
        """Raise DataError if the first row is bad, or, if bad rows are skipped, if no row is good. Rows not yet cached are streamed."""
        if read_index(self.folder, RECORDS_VERSION) is not None:
            check_rows(self._all_rows(), self.on_bad_row, self._where)
            return
        stream = self._stream()
        classes = class_names(stream.features)
        with closing(self._read_lines(stream)) as lines:
            check_rows((self._row(number, line, classes) for number, line in enumerate(lines)), self.on_bad_row, self._where)

    def _all_rows(self) -> Iterator[Row | BadRow]:
        numbers = count()
        records = self._records()
        content = _content_hash(records["classes"])
        for name in records["files"]:
            with reading_cache(self.folder), (self.folder / name).open("rb") as file:
                for line in file:
                    content.update(line)
                    yield self._row(next(numbers), line, records["classes"])
        if content.hexdigest() != records["content"]:
            raise self._damaged()

    def _damaged(self) -> DataError:
        return DataError(
            f"{self.folder}: damaged: its records are not those that were read; delete this folder, and start again to read them again"
        )

    def _row(self, number: int, line: bytes, classes: Mapping[str, Sequence[str]]) -> Row | BadRow:
        try:
            values = json.loads(line)
        except ValueError as error:
            raise self._damaged() from error
        record = Record(with_class_names(values, classes), f"{self._where}, row {number}")
        self.columns.check_one_text(record.values, record.place)  # without a schema, a record may have columns that earlier ones lack
        return self.columns.take(record)

    def _records(self) -> dict[str, Any]:
        """Return the index of the cache folder, which is filled first if it is incomplete. Raises DataError if the stream fails."""
        return indexed_folder(self.folder, RECORDS_VERSION, self._fill)[0]

    def _fill(self, folder: Path) -> None:
        """Write the records of the stream into an empty folder, with one record in memory at a time."""
        stream = self._stream()
        classes = class_names(stream.features)
        content = _content_hash(classes)
        records = 0
        with (folder / "records.jsonl").open("wb") as file:
            for line in self._read_lines(stream):
                file.write(line)
                content.update(line)
                records += 1
        facts = {"source": self._where, "records": records, "content": content.hexdigest(), "classes": classes}
        write_index(folder, RECORDS_VERSION, facts)

    def _stream(self) -> Any:
        """Open the stream, a datasets.IterableDataset with the columns that are read. Raises DataError if it fails or lacks a column."""
        stream = load_dataset(self.name, self.config, self.split, self.revision, streamed=True)
        if stream.column_names is None:  # files without a schema: each record has its own columns
            return stream
        self.columns.check(stream.column_names, self._where)
        return stream.select_columns(self.columns.select_kept(stream.column_names))

    def _read_lines(self, stream: Any) -> Generator[bytes, None, None]:
        """Yield the first `most` records as lines of JSON, with the columns that are read. Any error becomes a DataError."""
        try:
            for values in islice(stream, self.most):
                names = self.columns.select_kept(values) or values  # if no role reads any, keep all columns, so that the error lists them
                yield json.dumps({name: values[name] for name in names}, default=self._plain).encode() + b"\n"
        except DataError:
            raise
        except Exception as error:  # the code that reads a data set may raise anything
            raise DataError(f"{self._where}: the stream broke off ({first_line(error)}), and no row of it is kept; start again") from error

    def _plain(self, value: Any) -> Any:
        """Convert a date or time to text, for JSON. Raise DataError for other types."""
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        raise DataError(f"{self._where}: a column that is read holds {type(value).__name__}, which is not text; name another column")

    @property
    def _where(self) -> str:
        return f"{self.name}, split {self.split}"


def _content_hash(classes: Mapping[str, Sequence[str]]) -> "hashlib.blake2b":
    """Return a hash object that has hashed the class names; the caller adds the records."""
    return hashlib.blake2b(json.dumps(classes).encode() if classes else b"", digest_size=16)


def class_names(features: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return, for each column of `ClassLabel`s or of lists of `ClassLabel`s, the names of the classes in the order of their numbers."""
    names = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)  # the feature of a list's elements
        if type(inner).__name__ == "ClassLabel" and getattr(inner, "names", None):
            names[column] = list(inner.names)
    return names


def with_class_names(values: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values of a record with each class number as a ClassName, or as None if no class has the number (-1: unlabelled)."""

    def named(value: Any, names: Sequence[str]) -> Any:
        if isinstance(value, list):
            return [named(item, names) for item in value]
        return (ClassName(names[value], value) if 0 <= value < len(names) else None) if isinstance(value, int) else value

    return {column: named(value, classes[column]) if column in classes else value for column, value in values.items()}


def load_dataset(name: str, config: str | None, split: str, revision: str | None, streamed: bool = False) -> Any:
    """Load a datasets.Dataset, or if `streamed` a datasets.IterableDataset, from a local folder, the hub, or the cache of `datasets`.

    Raises DataError if the data set cannot be loaded, or if TFKIT_OFFLINE is set and `name` is not a local folder.
    """
    if os.path.isdir(folder := os.path.expanduser(name)):
        name = folder
    elif is_offline():
        raise DataError(f"hub data set {name}: TFKIT_OFFLINE is set; unset it, or name a local data set folder")
    import datasets  # type: ignore[import-untyped]
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    datasets.disable_progress_bars()
    what = f"hub data set {name}" + (f", config {config}" if config else "") + f", split {split}"
    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.DatasetDict) and split not in saved:
                raise DataError(f"{what}: no such split; the folder has {', '.join(map(str, saved))}")
            dataset = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            return dataset.to_iterable_dataset() if streamed else dataset

        def load() -> Any:
            return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streamed)

        if Path(name).is_dir() or streamed:  # without `fetch`'s retries: a folder needs none, and `datasets` retries the reads of a stream
            return load()
        return fetch(load, Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset"), _discard)
    except DataError:
        raise
    except Exception as error:  # the code that builds a data set may raise anything
        raise DataError(
            f"{what}: cannot be loaded ({first_line(error)}); check name, config, split and revision, and the network"
        ) from error


def _discard(dataset: Any) -> None:
    """Remove the Arrow files of a data set that was made from damaged downloads."""
    for file in dataset.cache_files:
        shutil.rmtree(Path(file["filename"]).parent, ignore_errors=True)

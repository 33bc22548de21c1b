"""The standard library of the running Python as a corpus: real code under a free licence, on almost every machine, offline. Each file
is a row, or, for one of the tasks of code_tasks.py, several labelled rows.
"""

import hashlib
import json
import os
import platform
import sysconfig
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import OnBadRow, Part, Row, Skipped, check_rows, fingerprint_of, good_rows
from tfkit.data.formats.file_content import reading
from tfkit.data.formats.readers import Rows, read_rows
from tfkit.data.sources.code_tasks import TASKS, parse
from tfkit.data.store.folder_cache import cache_folder, indexed_folder, reading_cache, write_index
from tfkit.data.store.hashes import digest
from tfkit.errors import DataError
from tfkit.units import format_bytes, format_number_of

HELD_OUT = 0.05  # fraction of files that is held out if the recipe gives no fraction

# Folders that are left out: tests and codec tables are repetitive, pydoc_data is generated, site-packages is not the standard library.
EXCLUDED = frozenset({"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"})
TASKS_VERSION = 1  # part of the fingerprint: raise it when the same files give other records
_RECORDS = "records.jsonl"
_MIN_FILES = 8  # the task `packages` has no rows of a package with fewer files, since its training or held-out part might be empty


@dataclass(frozen=True)
class StdlibSource:
    """The *.py files of the standard library, sorted by path, one row each; whole files are held out, by the hash of their path."""

    root: Path
    paths: tuple[str, ...]  # the files of this part, as posix paths relative to the root
    files_found: int
    size_bytes: int
    part: Part
    on_bad_row: OnBadRow = "error"
    name: str = "stdlib"

    @classmethod
    def find(cls, part: Part, on_bad_row: OnBadRow, root: Path | None = None) -> "StdlibSource":
        """Find the files of the part. Raise DataError if Python was installed without sources."""
        root = root or Path(sysconfig.get_path("stdlib"))
        paths = sorted(path.relative_to(root).as_posix() for path in _python_files(root) if _is_source(path, root))
        if not paths:
            raise DataError(f"{root}: no *.py files of the standard library here; use another Python, or a path or hub source")
        kept = tuple(path for path in paths if part.keeps(path.encode()))
        return cls(root, kept, len(paths), sum((root / path).stat().st_size for path in kept), part, on_bad_row)

    def describe(self) -> str:
        """Return a description, for messages: the number of files, their size, and whether they are the training or held-out part."""
        about = f"standard library of Python {platform.python_version()}: {len(self.paths)} files, {format_bytes(self.size_bytes)}"
        if self.part.name == "all":
            return about
        which = "held out" if self.part.name == "held_out" else "the training part"
        return f"{about} ({which} of {self.files_found} files)"

    def fingerprint(self) -> str:
        """Return a hash of the paths and contents of the part's files, and of the handling of bad rows."""
        hashed = hashlib.blake2b(f"stdlib{fingerprint_of(self.on_bad_row)}".encode(), digest_size=16)
        for path in self.paths:
            with reading(self.root / path):
                content = (self.root / path).read_bytes()
            hashed.update(f"{path}\0{len(content)}\0".encode())
            hashed.update(content)
        return hashed.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield a row for each file, its whole text."""
        return good_rows((row for path in self.paths for row in read_rows(self.root / path, Columns())), self.on_bad_row, skipped)


def _python_files(root: Path) -> Iterator[Path]:
    """Yield every *.py file below the root, without entering excluded folders, since site-packages may be large."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in EXCLUDED]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _is_source(path: Path, root: Path) -> bool:
    return EXCLUDED.isdisjoint(path.relative_to(root).parts[:-1]) and path.is_file()


@dataclass(frozen=True)
class StdlibTask:
    """The rows of one task (code_tasks.py); whole files are held out. Files that this Python cannot parse are skipped and counted.

    An input (such as a function's code) that occurs several times gives only one row, and a held-out input is never trained on. A folder of
    the cache has records.jsonl, with a record on each line, and index.json, written after records.jsonl.
    """

    task: str
    columns: Columns
    part: Part
    on_bad_row: OnBadRow
    folder: Path  # the task's folder in the cache
    index: dict[str, Any]

    @classmethod
    def find(cls, task: str, columns: Columns, part: Part, on_bad_row: OnBadRow, root: Path | None = None) -> "StdlibTask":
        """Return the task's rows, from the cache or built in a few seconds. Raise DataError if Python was installed without sources."""
        files = StdlibSource.find(Part("all", part.fraction), "error", root)
        folder = cache_folder() / "stdlib" / digest(TASKS_VERSION, task, platform.python_version(), files.fingerprint())
        index, _, _ = indexed_folder(folder, TASKS_VERSION, lambda path: _write(path, task, files))
        return cls(task, columns, part, on_bad_row, folder, index)

    @property
    def name(self) -> str:
        """The source as written in a recipe."""
        return f"stdlib: {self.task}"

    @property
    def size_bytes(self) -> int:
        """The bytes of the inputs, times the part's fraction."""
        return int(self.index["bytes"] * self.part.expected_fraction)

    def describe(self) -> str:
        """Return a description, for messages: the part's rows and files, and how many files of the library could not be parsed."""
        places = [record["path"] for record in self._kept()]
        about = f"{self.task} of the standard library of Python {platform.python_version()}: {len(places):,} rows of "
        about += f"{len(set(places)):,} files"
        if self.part.name != "all":
            about += f" ({'held out' if self.part.name == 'held_out' else 'the training part'})"
        unread = self.index["unread"]
        return about + (f"; {format_number_of(unread, 'file')} skipped that this Python cannot parse" if unread else "")

    def fingerprint(self) -> str:
        """Return a hash of the task, columns, part, and all files, since a training row is left out if a held-out file has its input."""
        return digest(self.folder.name, self.columns.fingerprint(), f"{self.part}{fingerprint_of(self.on_bad_row)}")

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part, file after file."""
        return good_rows(self._all_rows(), self.on_bad_row, skipped)

    def check(self) -> None:
        """Raise DataError if the first row is bad (lacks a column, for example), or, if bad rows are skipped, if no row is good."""
        check_rows(self._all_rows(), self.on_bad_row, self.name)

    def _all_rows(self) -> Rows:
        for record in self._kept():
            yield self.columns.take(Record(record["values"], f"{record['path']}:{record['line']}"))

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Yield the part's records, but only the first with each input, and for training none whose input is also in the held-out part."""
        held_out = Part("held_out", self.part.fraction)
        seen = set()
        if self.part.name == "train":
            seen = {record["given"] for record in self._records() if held_out.keeps(record["path"].encode())}
        for record in self._records():
            if self.part.keeps(record["path"].encode()) and record["given"] not in seen:
                seen.add(record["given"])
                yield record

    def _records(self) -> Iterator[dict[str, Any]]:
        path = self.folder / _RECORDS
        with reading_cache(self.folder), path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _write(folder: Path, task: str, files: StdlibSource) -> None:
    """Write the records of a task and their index into an empty folder."""
    records, unread = _find_records(task, files)
    input_bytes = sum(len(" ".join(_texts(record["values"][TASKS[task].input_column])).encode()) for record in records)
    with (folder / _RECORDS).open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
    write_index(folder, TASKS_VERSION, {"records": len(records), "unread": unread, "bytes": input_bytes})


def _find_records(task: str, files: StdlibSource) -> tuple[list[dict[str, Any]], int]:
    """Return the records of all files, and how many files cannot be parsed. The task `packages` leaves out packages with few files."""
    records: list[dict[str, Any]] = []
    unread = 0
    for name in files.paths:
        with reading(files.root / name):
            parsed = parse((files.root / name).read_bytes())
        try:
            examples = [] if parsed is None else list(TASKS[task].find(name, *parsed))
        except (tokenize.TokenError, SyntaxError, RecursionError):
            parsed, examples = None, []
        unread += parsed is None
        for line, values in examples:
            words = " ".join(_texts(values[TASKS[task].input_column])).split()  # copies of the same code may differ in white space
            key = hashlib.blake2b(" ".join(words).encode(errors="surrogatepass"), digest_size=8).hexdigest()
            records.append({"path": name, "line": line, "given": key, "values": values})
    if task == "packages":
        paths = defaultdict(set)
        for record in records:
            paths[record["values"]["label"]].add(record["path"])
        records = [record for record in records if len(paths[record["values"]["label"]]) >= _MIN_FILES]
    return records, unread


def _texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value

"""Labelled rows made from the standard library's files: docstrings, token roles, packages. Split by file, as the whole files are.

A model's input is in one row only, however many files hold it, and no held-out one is trained on. The records are kept in the
cache: records.jsonl, one record a line, and index.json, written last.
"""

import hashlib
import json
import platform
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfkit.data.code import TASKS, parse
from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import OnBadRow, Part, Row, Skipped, check_rows, fingerprint_of, good_rows
from tfkit.data.formats.file_content import reading
from tfkit.data.formats.readers import Rows
from tfkit.data.sources.stdlib import StdlibSource
from tfkit.data.store.folder_cache import cache_folder
from tfkit.data.store.folder_index import indexed_folder, write_index

TASKS_VERSION = 1  # part of the fingerprint: raise it when the same files give other records
_RECORDS = "records.jsonl"
_FEWEST_FILES = 8  # of a package: fewer are too few to split


@dataclass(frozen=True)
class StdlibTask:
    """The rows of one task. Files that this Python cannot parse are skipped, and counted."""

    task: str
    columns: Columns
    part: Part
    on_bad_row: OnBadRow
    folder: Path  # of the cache
    index: dict[str, Any]

    @classmethod
    def find(cls, task: str, columns: Columns, part: Part, on_bad_row: OnBadRow, root: Path | None = None) -> "StdlibTask":
        """Return the task's rows, from the cache or made in a few seconds. Raise DataError if Python was installed without sources."""
        files = StdlibSource.find(Part("all", part.fraction), "error", root)
        content = f"{TASKS_VERSION}\0{task}\0{platform.python_version()}\0{files.fingerprint()}"
        folder = cache_folder() / "stdlib" / hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        index, _ = indexed_folder(folder, TASKS_VERSION, lambda path: _write(path, task, files))
        return cls(task, columns, part, on_bad_row, folder, index)

    @property
    def name(self) -> str:
        """The source as a recipe has it."""
        return f"stdlib: {self.task}"

    @property
    def size_bytes(self) -> int:
        """Bytes of the inputs, times the part's fraction."""
        return int(self.index["bytes"] * self.part.expected_fraction)

    def describe(self) -> str:
        """Return rows and files of the part, and how many files could not be parsed."""
        places = [record["path"] for record in self._kept()]
        about = f"{self.task} of the standard library of Python {platform.python_version()}: {len(places):,} rows of "
        about += f"{len(set(places)):,} files"
        if self.part.name != "all":
            about += f" ({'held out' if self.part.name == 'held_out' else 'the training part'})"
        unread = self.index["unread"]
        return about + (f"; {unread} file{'s' if unread > 1 else ''} skipped that this Python cannot parse" if unread else "")

    def fingerprint(self) -> str:
        """Return a hash of all the files, since a row may be skipped because of another file's; of the task, the columns and the part."""
        about = f"{self.folder.name}\0{self.columns.fingerprint()}\0{self.part}{fingerprint_of(self.on_bad_row)}"
        return hashlib.blake2b(about.encode(), digest_size=16).hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part, file after file."""
        return good_rows(self._all_rows(), self.on_bad_row, skipped)

    def check(self) -> None:
        """Find a missing column now."""
        check_rows(self._all_rows(), self.on_bad_row, self.name)

    def _all_rows(self) -> Rows:
        for record in self._kept():
            yield self.columns.take(Record(record["values"], f"{record['path']}:{record['line']}"))

    def _kept(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the part, each input only once."""
        others = Part("held_out" if self.part.name == "train" else "train", self.part.fraction)
        given = set()
        if self.part.name == "train":
            given = {record["given"] for record in self._records() if others.keeps(record["path"].encode())}
        for record in self._records():
            if self.part.keeps(record["path"].encode()) and record["given"] not in given:
                given.add(record["given"])
                yield record

    def _records(self) -> Iterator[dict[str, Any]]:
        path = self.folder / _RECORDS
        with reading(path), path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _write(folder: Path, task: str, files: StdlibSource) -> None:
    """Fill an empty folder."""
    found, unread = _find(task, files)
    given = sum(len(" ".join(_texts(record["values"][TASKS[task].given])).encode()) for record in found)
    with (folder / _RECORDS).open("w", encoding="utf-8") as file:
        for record in found:
            file.write(json.dumps(record) + "\n")
    write_index(folder, TASKS_VERSION, {"records": len(found), "unread": unread, "bytes": given})


def _find(task: str, files: StdlibSource) -> tuple[list[dict[str, Any]], int]:
    """Return the records of all files, and how many files cannot be parsed."""
    found: list[dict[str, Any]] = []
    unread = 0
    for name in files.paths:
        with reading(files.root / name):
            parsed = parse((files.root / name).read_bytes())
        try:
            here = [] if parsed is None else list(TASKS[task].find(name, *parsed))
        except (tokenize.TokenError, SyntaxError, RecursionError):
            parsed, here = None, []
        unread += parsed is None
        for line, values in here:
            words = " ".join(_texts(values[TASKS[task].given])).split()  # copies differ in white space
            key = hashlib.blake2b(" ".join(words).encode(errors="surrogatepass"), digest_size=8).hexdigest()
            found.append({"path": name, "line": line, "given": key, "values": values})
    if task == "packages":
        paths = defaultdict(set)
        for record in found:
            paths[record["values"]["label"]].add(record["path"])
        found = [record for record in found if len(paths[record["values"]["label"]]) >= _FEWEST_FILES]
    return found, unread


def _texts(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given

"""Local files as a source: a file, a folder or a glob, in sorted order, each read by its format."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tfkit.data.columns import Columns
from tfkit.data.formats import COLUMN_FORMATS, Rows, open_binary, read_rows, reading, suffix_of
from tfkit.data.rows import OnBadRow, Part, Row, check_rows, fingerprint_of, good_rows, megabytes
from tfkit.errors import DataError

# What a folder is searched for. A file or glob that is named outright is read whatever its suffix.
TEXT_SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "txt text md rst tex adoc org srt html htm css scss xml yaml yml toml ini cfg sql proto cmake",
        "py pyi c h cc cpp cxx hpp hh m mm cs java kt scala groovy go rs swift dart v sv vhd asm s f f90 f95 pas",
        "js jsx ts tsx vue sh bash zsh ps1 r jl lua pl pm php rb tcl hs ml mli ex exs erl clj lisp el scm",
    )
    for suffix in line.split()
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileSource:
    """The rows of files: a whole text file is one row, files with columns give one row a record."""

    name: str  # the path or glob of the recipe
    paths: tuple[Path, ...]
    columns: Columns
    part: Part
    on_bad_row: OnBadRow = "error"

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, times the share of the part."""
        return int(self._bytes_on_disk() * self.part.share)

    def describe(self) -> str:
        """Files, MB on disk, part, and what a folder holds besides."""
        count = len(self.paths)
        about = [f"{self.name}: {count} file{'s' if count > 1 else ''}, {megabytes(self._bytes_on_disk())}"]
        about += [self.part.describe()] if self.part.describe() else []
        if Path(self.name).expanduser().is_dir():
            others = sum(1 for _ in _walk(Path(self.name).expanduser())) - count
            about += [f"{others} other file{'s' if others > 1 else ''} left out"] if others else []
        return "; ".join(about)

    def fingerprint(self) -> str:
        """A hash of names, bytes as they lie on disk, the columns, the part, and what becomes of bad rows. The folder may move."""
        digest = hashlib.blake2b(
            f"files\0{self.columns.fingerprint()}\0{self.part}{fingerprint_of(self.on_bad_row)}".encode(), digest_size=16
        )
        base = _common_folder(self.paths)
        for path in self.paths:
            with reading(path), path.open("rb") as file:
                digest.update(os.fsencode(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0"))
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def rows(self, skipped: Counter[str] | None = None) -> Iterator[Row]:
        """Every row of the part, file after file."""
        for row in good_rows(self._all_rows(), self.on_bad_row, skipped):
            if self.part.keeps(row.text.encode()):
                yield row

    def check(self) -> None:
        """Find errors in the first row now."""
        check_rows(self._all_rows(), self.on_bad_row, self.name)

    def _all_rows(self) -> Rows:
        for path in self.paths:
            yield from read_rows(path, self.columns)

    def _bytes_on_disk(self) -> int:
        return sum(_size(path) for path in self.paths)


def find_files(pattern: str) -> list[Path]:
    """The files that a path names, sorted: itself, a folder's known text and data files, or the matches of a glob (** is recursive).

    Raises DataError where nothing matches. Hidden files of a folder are left out, and links to folders are not followed into them:
    they may lead in a circle.
    """
    if "\0" in pattern:
        raise DataError(f"{pattern!r}: a path cannot hold a NUL character; correct the path")
    try:
        path = Path(pattern).expanduser()
    except RuntimeError as error:
        raise DataError(f"{pattern}: there is no such user's home folder; correct the path") from error
    with reading(path):  # a name that is too long, a folder that may not be entered
        return sorted((_readable(file) for file in _find(path, pattern)), key=lambda file: file.as_posix())


def _find(path: Path, pattern: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in _walk(path) if _is_wanted(file, path)]
        if not found:
            raise DataError(
                f"{pattern}: no text, jsonl, csv or parquet file in this folder; name the files, or use a glob such as {pattern}/**/*.x"
            )
    elif path.exists():
        raise DataError(f"{pattern}: this is a device, pipe or socket, which cannot be read twice; write its content into a file")
    else:
        found = _glob(path)
        if not found:
            raise DataError(f"{pattern}: no such file or folder, and no file matches it as a glob (from {Path.cwd()}); correct the path")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The regular files below a folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if (path := Path(parent, name)).is_file():  # neither a pipe nor a link that leads nowhere
                yield path


def _glob(pattern: Path) -> list[Path]:
    """The regular files that match, as glob.glob finds them, but `**` does not follow links to folders."""
    if "**" not in pattern.parts:
        return [path for path in map(Path, glob.glob(str(pattern))) if path.is_file()]
    place = pattern.parts.index("**")
    roots = glob.glob(str(Path(*pattern.parts[:place])))
    return [path for root in roots for path in _walk(Path(root)) if _matches(path.relative_to(root).parts, pattern.parts[place:])]


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a glob. As in a shell a leading dot must be written."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    return not hidden and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _size(path: Path) -> int:
    with reading(path):
        return path.stat().st_size


def _is_wanted(path: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    return (suffix_of(path) in TEXT_SUFFIXES or suffix_of(path) in COLUMN_FORMATS) and path.is_file()


def _readable(path: Path) -> Path:
    if suffix_of(path) == ".json":
        raise DataError(f"{path}: a .json file has no rows; write one object a line and name it .jsonl")
    try:
        with open_binary(path):
            return path
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error


def _common_folder(paths: tuple[Path, ...]) -> Path:
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder

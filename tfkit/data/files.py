"""Local files as a source: a file, a folder or a glob, in sorted order, each read by its format."""

import glob
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfkit.data.formats import COLUMN_FORMATS, open_binary, read_rows, suffix_of
from tfkit.data.rows import Part, Row, megabytes
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
    column: str
    part: Part

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, times the share of the part."""
        return int(sum(path.stat().st_size for path in self.paths) * self.part.share)

    def describe(self) -> str:
        """Files, MB on disk, part, and what a folder holds besides."""
        count = len(self.paths)
        about = [f"{self.name}: {count} file{'s' if count > 1 else ''}, {megabytes(sum(path.stat().st_size for path in self.paths))}"]
        about += [self.part.describe()] if self.part.describe() else []
        if Path(self.name).expanduser().is_dir():
            others = sum(path.is_file() for path in Path(self.name).expanduser().rglob("*")) - count
            about += [f"{others} other file{'s' if others > 1 else ''} left out"] if others else []
        return "; ".join(about)

    def fingerprint(self) -> str:
        """A hash of names, bytes as they lie on disk, the column and the part. The folder may move."""
        digest = hashlib.blake2b(f"files\0{self.column}\0{self.part}".encode(), digest_size=16)
        base = _common_folder(self.paths)
        for path in self.paths:
            digest.update(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def rows(self) -> Iterator[Row]:
        """Every row of the part, file after file."""
        for path in self.paths:
            for row in read_rows(path, self.column):
                if self.part.keeps(row.text.encode()):
                    yield row

    def check(self) -> None:
        """Read the first row, for the errors that are in all of them: a wrong column, a wrong encoding."""
        if next((row for path in self.paths for row in read_rows(path, self.column)), None) is None:
            raise DataError(f"{self.name}: no rows in {len(self.paths)} file(s); give a source that holds text")


def find_files(pattern: str) -> list[Path]:
    """The files that a path names, sorted: itself, a folder's known text and data files, or the matches of a glob (** is recursive).

    Raises DataError where nothing matches. Hidden files of a folder are left out.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [_readable(path)]
    if path.is_dir():
        found = [file for file in path.rglob("*") if _is_wanted(file, path)]
        if not found:
            raise DataError(
                f"{pattern}: no text, jsonl, csv or parquet file in this folder; name the files, or use a glob such as {pattern}/**/*.x"
            )
    else:
        found = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
        if not found:
            raise DataError(f"{pattern}: no such file or folder, and no file matches it as a glob (from {Path.cwd()}); correct the path")
    return sorted((_readable(file) for file in found), key=lambda file: file.as_posix())


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

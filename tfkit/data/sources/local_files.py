"""Local files as a source: a file, or the files of a folder or glob in sorted order. If each row is a whole file, and the split by hash
would leave the training or the held-out part empty, each text is cut into a training and a held-out part instead.
"""

import codecs
import errno
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import FIRST_ROWS, OnBadRow, Part, Row, Skipped, check_rows, fingerprint_of, good_rows
from tfkit.data.formats.detection import detect_json_lines
from tfkit.data.formats.file_content import BOM, content_of, decode, is_utf8, opened, read_whole, reading
from tfkit.data.formats.foreign_bytes import foreign_file
from tfkit.data.formats.readers import Layout, Rows, are_texts, describe_layout, read_rows, reader_versions
from tfkit.data.formats.suffixes import (
    FORMAT_OF,
    KINDS,
    compression_of,
    is_archive,
    is_hidden,
    is_readme,
    is_searched,
    list_names,
    suffix_of,
)
from tfkit.data.sources.archives import member_names
from tfkit.data.sources.derived_rows import cut_text, describe_cut
from tfkit.errors import DataError
from tfkit.recipe.bundled import fetch_command
from tfkit.units import format_bytes, format_number_of

_MAX_TEXTS = 100  # with more files, a split by hash hardly ever leaves a part empty


@dataclass(frozen=True)
class FileSource:
    """The rows of files: a text file is one row; a file with columns has a row for each record."""

    name: str  # the path or glob in the recipe
    paths: tuple[Path, ...]
    columns: Columns
    part: Part
    on_bad_row: OnBadRow = "error"
    layout: Layout = field(default_factory=Layout)
    uses: str = ""  # a description of the uses of the files (splits, columns, classes), or of what is beside a single file

    @property
    def size_bytes(self) -> int | None:
        """The bytes on disk, times the part's fraction; None if a file is compressed, an archive or Parquet, and thus of unknown size."""
        is_packed = any(compression_of(path) or is_archive(path) or suffix_of(path) == ".parquet" for path in self.paths)
        return None if is_packed else int(self._bytes_on_disk() * self.part.expected_fraction)

    def describe(self) -> str:
        """Return a description, for messages: the files, their size, layout and use, the part that is read, and skipped files."""
        count = len(self.paths)
        about = [f"{self.name}: {format_number_of(count, 'file')}, {format_bytes(self._bytes_on_disk())}"]
        about += [self.uses] if self.uses else []
        about += [layout] if (layout := describe_layout(self.paths[0], self.columns, self.layout)) else []
        part = describe_cut(self.part) if self.by_position else self.part.describe()
        about += [part] if part else []
        texts = [path for path in self.paths if FORMAT_OF.get(suffix_of(path), "text") == "text" and not is_archive(path)]
        western = [
            path
            for path in texts
            if not is_utf8(content := content_of(path))
            and are_texts([path], self.columns, self.layout)
            and isinstance(decode(read_whole(content), may_be_western=True), str)
        ]
        about += [f"{list_names(western)} not in UTF-8, read as Windows-1252"] if western else []
        archives = [member_names(path, recognises=self.layout.recognises) for path in self.paths if is_archive(path)]
        if archives:
            inside = sum(len(read) for read, _ in archives)
            about.append(f"{format_number_of(inside, 'file')} in {'it' if count == 1 else 'archives'}")
        others = [name for _, skipped in archives for name in skipped]
        if (folder := Path(self.name).expanduser()).is_dir() and not self.uses:
            others += sorted(str(path.relative_to(folder)) for path in walk(folder) if path not in self.paths)
        if others:
            about.append(f"{format_number_of(len(others), 'other file')} skipped: {list_names(others)}")
        return "; ".join(about)

    def fingerprint(self) -> str:
        """Return a hash of the files' names and bytes, and of what selects the rows from them. Moving the folder does not change it."""
        part = f"{self.part}\0position" if self.by_position else self.part.fingerprint(self._all_rows())
        digest = hashlib.blake2b(f"files\0{self.columns.fingerprint()}\0{part}{fingerprint_of(self.on_bad_row)}".encode(), digest_size=16)
        if self.layout.keys:
            digest.update(f"keys\0{self.layout.keys}\0".encode())
        if self.layout.only:
            digest.update(f"only\0{self.layout.only}\0".encode())
        if (self.layout.format, self.layout.header, self.layout.beside) != (None, (), {}):
            digest.update(f"{self.layout.format}\0{self.layout.header}\0{list(self.layout.beside)}\0".encode())
        paths = [path.absolute() for path in (*self.paths, *(path for beside in self.layout.beside.values() for path in beside))]
        base = os.path.commonpath([path.parent for path in paths])
        if versions := {name: version for path in self.paths for name, version in reader_versions(path, self.layout).items()}:
            digest.update(f"readers\0{versions}\0".encode())
        for path in paths:
            with reading(path), path.open("rb") as file:
                digest.update(os.fsencode(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\0"))
                hashlib.file_digest(file, lambda: digest)
        return digest.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield every row of the part, file after file."""
        rows = good_rows(self._all_rows(), self.on_bad_row, skipped)
        return (text for row in rows if (text := cut_text(row, self.part))) if self.by_position else self.part.select(rows)

    @cached_property
    def by_position(self) -> bool:
        """Whether each text is cut into two parts: the rows are whole files, and a split by hash would leave one part empty."""
        if (
            self.part.by != "input"
            or not self.part.is_split
            or len(self.paths) > _MAX_TEXTS
            or not are_texts(self.paths, self.columns, self.layout)
        ):
            return False
        sides = (self.part.keeps(self.part.key_of(row).encode()) for row in good_rows(self._all_rows(), self.on_bad_row))
        first = next(sides, None)
        return first is not None and all(side == first for side in sides)

    def check(self) -> None:
        """Raise DataError if one of the first rows is bad and bad rows are not skipped, or if no row is good."""
        check_rows(self._all_rows(), self.on_bad_row, self.name, FIRST_ROWS)

    def _all_rows(self) -> Rows:
        for number, path in enumerate(self.paths):
            yield from read_rows(path, self.columns, self.layout, number)

    def _bytes_on_disk(self) -> int:
        total = 0
        for path in self.paths:
            with reading(path):
                total += path.stat().st_size
        return total


def find_beside(pattern: str, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files of a pattern, which are parallel to `paths`. Raise DataError if their numbers differ, or one is an archive."""
    parallel = find_files(pattern)
    if len(parallel) != len(paths):
        raise DataError(
            f"{pattern}: {len(parallel)} files parallel to {len(paths)}; name the same number, in the same order, or a source for each"
        )
    if archive := next(filter(is_archive, parallel), None):
        raise DataError(f"{archive}: an archive cannot be parallel to a file; unpack it, and name the file in it")
    return tuple(parallel)


def find_files(pattern: str, *, recognises: bool = True) -> list[Path]:
    """Return the sorted files of a path: the file itself, a folder's text and data files, or the matches of a glob (** is recursive).

    Of the .json files in a folder, only those that hold an array or JSON lines are data. Below a folder and by **, hidden files are skipped
    and links to folders are not followed, since they may be circular. `recognises`: a README or a licence beside other files in a folder is
    not data, and if no file has a suffix of data, text files with any suffix are read. If `recognises` is False, files are found as in
    tfkit 0.1, which read no compression but gzip, and no tar archives. Raises DataError if nothing matches, or a file cannot be opened.
    """
    if "\0" in pattern:
        raise DataError(f"{pattern!r}: a path cannot hold a NUL character; correct the path")
    try:
        path = Path(pattern).expanduser()
    except RuntimeError as error:
        raise DataError(f"{pattern}: there is no such user's home folder; correct the path") from error
    with reading(path):  # OSError: the name is too long, or a folder may not be entered
        files = _find(path, pattern, recognises=recognises)
    for file in files:
        with reading(file), file.open("rb"):  # raises DataError now if a file cannot be opened
            pass
    return sorted(files, key=Path.as_posix)


def is_read_by(path: Path, pattern: str) -> bool:
    """Whether a source with this pattern (file, folder or glob) reads a path, which need not exist. Links in both paths are followed."""
    try:
        source, path = Path(pattern).expanduser(), path.resolve()
        if source.is_dir():
            root = source.resolve()
            return path == root or (path.is_relative_to(root) and _may_be_data(path.relative_to(root)))
        if source.exists():
            return path == source.resolve()
        parts = source.absolute().parts
        first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        return _matches(path.parts, (*Path(*parts[:first]).resolve().parts, *parts[first:]))
    except (OSError, RuntimeError, ValueError):  # an unknown user's home, a loop of links, or a name that no file can have
        return False


def _find(path: Path, pattern: str, *, recognises: bool) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _find_in_folder(path, recognises=recognises)
        if not files:
            beside = sorted(file for file in walk(path) if not is_hidden(file.relative_to(path)))
            here = f", only {list_names(beside)}" if beside else ""
            foreign = next(filter(None, map(foreign_file, beside)), None)
            remedy = f"name the files, or use a glob such as {pattern}/**/*.x" if foreign is None else foreign.message
            raise DataError(f"{pattern}: no {KINDS} file in this folder{here}; {remedy}")
    elif path.exists():
        raise DataError(f"{pattern}: this is a device, pipe or socket, which cannot be read twice; write its content into a file")
    else:
        files = _glob(path)
        if not files:
            moved = "" if path.is_absolute() else ", or give the command in the folder where this path begins"
            remedy = f"fetch it with `{command}`" if (command := fetch_command(pattern)) else f"correct the path{moved}"
            raise DataError(f"{pattern}: no such file or folder, and no file matches it as a glob (from {Path.cwd()}); {remedy}")
    return files


def _find_in_folder(folder: Path, *, recognises: bool) -> list[Path]:
    files = [file for file in walk(folder) if _may_be_data(file.relative_to(folder)) and _holds_rows(file, recognises=recognises)]
    if not recognises:
        return [file for file in files if compression_of(file) in ("", "gzip") and suffix_of(file) != ".tar"]
    if data := [file for file in files if not is_readme(file)]:
        return data
    unnamed = [
        file for file in walk(folder) if not (is_hidden(file.relative_to(folder)) or is_readme(file) or suffix_of(file) in FORMAT_OF)
    ]
    return [file for file in unnamed if _is_text(file)] or files


def walk(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder. Raises DataError for a subfolder that cannot be read, unless it is hidden or `lost+found`."""

    def refuse(error: OSError) -> None:
        below = Path(error.filename).relative_to(folder)
        if not is_hidden(below) and below.name != "lost+found":  # lost+found, at the root of a disk, can only be read by the system
            with reading(error.filename):
                raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if (path := Path(parent, name)).is_file():  # excludes pipes and broken links
                yield path


def files_beside(path: Path) -> list[Path]:
    """Return the files and folders beside a file, including the file; only the file itself if its folder may not be listed."""
    try:
        return [*path.parent.iterdir()]
    except PermissionError:
        return [path]


def _glob(pattern: Path) -> list[Path]:
    """Return the regular files that glob.glob finds, except that `**` does not follow links to folders."""
    parts = pattern.parts
    index = parts.index("**") if "**" in parts else len(parts)
    _require_open(parts[:index])
    roots = map(Path, glob.glob(str(Path(*parts[:index]))))
    if index == len(parts):
        return [path for path in roots if path.is_file()]
    return [path for root in roots for path in walk(root) if _matches(path.relative_to(root).parts, parts[index:])]


def _require_open(parts: tuple[str, ...]) -> None:
    """Raise DataError if a folder that the glob of these path parts reads cannot be read, because glob.glob would silently skip it."""
    for number, part in enumerate(parts):
        needed = os.R_OK | os.X_OK if glob.has_magic(part) else os.X_OK
        for folder in filter(os.path.isdir, glob.glob(str(Path(*parts[:number])))):
            if not os.access(folder, needed) and Path(folder).name != "lost+found":
                with reading(folder):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match the parts of a glob. As in a shell, a leading dot must be matched explicitly."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    return not hidden and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_be_data(name: Path) -> bool:
    """Whether a file of a folder may be data, judged by its path relative to the folder."""
    return is_searched(name) or (is_archive(name) and not is_hidden(name))


def _holds_rows(path: Path, *, recognises: bool) -> bool:
    """Whether a file holds rows. Of JSON files, only arrays and JSON lines do, since most others are settings of programs."""
    if suffix_of(path) != ".json":
        return True
    with opened(content := content_of(path)) as file:
        is_array = file.read(4096).removeprefix(BOM).lstrip().startswith(b"[")
    return is_array or (recognises and detect_json_lines(content))


def _is_text(path: Path) -> bool:
    """Whether a file begins with text: UTF-8 without NUL characters."""
    with opened(content_of(path)) as file, suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(file.read(4096))  # incremental: the last character may be cut
        return bool(text) and "\0" not in text
    return False

"""Zip and tar archives, read like folders: their data files in sorted order, each decompressed as it is read. Only a compressed tar archive
is first decompressed as a whole, into an unnamed temporary file.

Archives are untrusted: a member's name is never used as a path on disk, and no more bytes of a member are read than the archive
declares. Links in archives are not read.
"""

import struct
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from tfkit.data.formats.compression import Budget, unpacked
from tfkit.data.formats.file_content import Content, content_of, reading, seekable
from tfkit.data.formats.suffixes import KINDS, is_archive, is_hidden, is_readme, is_searched, list_names, suffix_of
from tfkit.errors import DataError, first_line

_ENCRYPTED = 1  # the bit of ZipInfo.flag_bits that marks an encrypted file
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # not bzip2 and LZMA, which may expand a kilobyte to a gigabyte in one read
_DAMAGE = (struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError, tarfile.TarError)


class _Member(NamedTuple):
    """A file in an archive. `problem`: why it cannot be read, with the remedy; empty if it can be read."""

    name: PurePosixPath
    size: int  # the number of decompressed bytes that the archive claims
    open: Callable[[], IO[bytes]]
    problem: str = ""


def members(path: Path, *, recognises: bool = True, only: Collection[str] = ()) -> Iterator[Content]:
    """Yield the data files of an archive; read each before taking the next. Raise DataError if the archive is damaged, would unpack to far
    more bytes than text does, or has no data file, or one that cannot be read.

    `recognises`: leave out a README or a licence beside other files (tfkit 0.1 read them). `only`: names of files to read; empty: all.
    """
    with _opened(path) as files:
        kind, size = _kind(path), path.stat().st_size
        data_files = _data_files(files, path, recognises=recognises)
        Budget(str(path), size).spend(sum(file.size for file in data_files))  # checks the claimed sizes before any file is decompressed
        budget = Budget(str(path), size)
        for file in data_files:
            if only and str(file.name) not in only:
                continue
            yield Content(_display_name(path, file), suffix_of(file.name), kind, partial(_open, file, path, budget))


def member_names(path: Path, *, recognises: bool = True) -> tuple[list[str], list[str]]:
    """Return the names of the files of an archive that are read, and of those skipped. Raise DataError if the archive cannot be read."""
    with _opened(path) as files:
        read = _data_files(files, path, recognises=recognises)
        return [str(file.name) for file in read], [_printable(file.name) for file in files if file not in read]


@contextmanager
def _opened(path: Path) -> Iterator[list[_Member]]:
    """Open an archive, and list its regular files, which can be read until the context ends."""
    with seekable(content_of(path)) as file, reading(path, _kind(path)), _damage(path):
        if _kind(path) == "zip":
            with zipfile.ZipFile(file) as zip_file:
                yield _files_of_zip(zip_file)
        else:
            with tarfile.open(fileobj=file, mode="r:") as tar_file:
                yield _files_of_tar(tar_file, file)


def _kind(path: Path) -> str:
    return suffix_of(path).removeprefix(".")


def _files_of_zip(archive: zipfile.ZipFile) -> list[_Member]:
    files = []
    for info in archive.infolist():
        if not info.is_dir():
            problem = "is encrypted; unpack it with its password, and name its files" if info.flag_bits & _ENCRYPTED else ""
            if not problem and info.compress_type not in _METHODS:
                problem = "is compressed by another method than deflate; unpack it, and name its files"
            files.append(_Member(PurePosixPath(info.filename), info.file_size, partial(archive.open, info), problem))
    return files


def _files_of_tar(archive: tarfile.TarFile, file: IO[bytes]) -> list[_Member]:
    """List the regular files; of equal names, only the last. Raise ValueError for a damaged header, where tarfile would silently stop."""
    infos: dict[str, tarfile.TarInfo] = {}
    offset = -1
    for info in archive:
        if info.size < 0 or info.offset <= offset:  # tarfile would read such an archive forever (CVE-2025-8194)
            raise ValueError(f"the size of {info.name!r} is negative")
        offset = info.offset
        if info.isreg():
            infos[info.name] = info
    file.seek(archive.offset)  # the block after the last file, which must have only zeros
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise ValueError("its end is missing, or the header of a file is not valid")
    sparse = "is stored with gaps (a sparse file); unpack it, and name its files"
    extract = cast(Callable[[tarfile.TarInfo], IO[bytes]], archive.extractfile)  # None is only returned for an entry that is no file
    return [
        _Member(PurePosixPath(name), info.size, partial(extract, info), sparse if info.issparse() else "") for name, info in infos.items()
    ]


def _open(file: _Member, path: Path, budget: Budget) -> IO[bytes]:
    with _damage(path):
        return unpacked(file.name, file.open(), budget)


def _data_files(files: list[_Member], path: Path, *, recognises: bool) -> list[_Member]:
    files = [file for file in files if not is_hidden(file.name)]
    for file in files:
        if is_archive(file.name):
            raise DataError(
                f"{_display_name(path, file)}: an archive in an archive is not opened; unpack the outer one, and name its files"
            )
        if file.problem and is_searched(file.name):
            raise DataError(f"{_display_name(path, file)}: {file.problem}")
    data_files = sorted((file for file in files if is_searched(file.name)), key=lambda file: str(file.name))
    if recognises:
        data_files = [file for file in data_files if not is_readme(file.name)] or data_files
    if not data_files:
        here = f", only {list_names([_printable(file.name) for file in files])}" if files else ""
        raise DataError(f"{path}: no {KINDS} file in this archive{here}; unpack it, and name the files")
    return data_files


def _display_name(path: Path, file: _Member) -> str:
    """Return `archive.zip/folder/name`, without control characters."""
    return f"{path}/{_printable(file.name)}"


def _printable(name: PurePosixPath) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(name))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Convert errors that zipfile and tarfile raise for damaged or hostile archives into DataErrors."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged or no {_kind(path)} file ({first_line(error)}); fetch or write it again") from error

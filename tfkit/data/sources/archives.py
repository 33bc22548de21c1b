"""Zip archives, read like folders: their data files in sorted order, each decompressed as it is read. Nothing is written to disk.

Archives are untrusted: a member's name is only shown in messages, never used as a path, and its claimed size is a limit.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tfkit.data.formats.file_content import Budget, Content, first_line, reading, unpacked
from tfkit.data.formats.suffixes import KINDS, is_hidden, is_readme, is_searched, is_zip, suffix_of
from tfkit.errors import DataError

_ENCRYPTED = 1  # a bit of ZipInfo.flag_bits
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # bzip2 and LZMA may expand a kilobyte to a gigabyte at once


def members(path: Path, *, recognises: bool = True) -> Iterator[Content]:
    """Yield the data files of an archive; each must be read before the next. Raise DataError if it is damaged, unsafe or has none.

    `recognises`: leave out a README or a licence beside other files (tfkit 0.1 read them).
    """
    archive, size = _open_archive(path)
    with archive:
        infos = _data_files(archive, path, recognises=recognises)
        Budget(str(path), size).spend(sum(info.file_size for info in infos))  # the claimed sizes, before anything is decompressed
        budget = Budget(str(path), size)
        for info in infos:
            yield Content(_display_name(path, info), suffix_of(_name(info)), "zip", partial(_open, archive, info, path, budget))


def count_members(path: Path, *, recognises: bool = True) -> tuple[int, int]:
    """Return how many files of an archive are read, and how many are skipped. Raise DataError as `members` does."""
    archive, _ = _open_archive(path)
    with archive:
        read = len(_data_files(archive, path, recognises=recognises))
        return read, sum(1 for info in archive.infolist() if not info.is_dir()) - read


def _open_archive(path: Path) -> tuple[zipfile.ZipFile, int]:
    """Open an archive; return it with its size in bytes."""
    with reading(path, "zip"), _damage(path):
        return zipfile.ZipFile(path), path.stat().st_size


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: Budget) -> IO[bytes]:
    with _damage(path):
        return unpacked(_name(info), archive.open(info), budget)


def _data_files(archive: zipfile.ZipFile, path: Path, *, recognises: bool) -> list[zipfile.ZipInfo]:
    files = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(_name(info))]
    for info in files:
        if is_zip(_name(info)):
            raise DataError(
                f"{_display_name(path, info)}: an archive in an archive is not opened; unpack the outer one, and name its files"
            )
        if not is_searched(_name(info)):
            continue
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{_display_name(path, info)}: is encrypted; unpack it with its password, and name its files")
        if info.compress_type not in _METHODS:
            raise DataError(f"{_display_name(path, info)}: is compressed by another method than deflate; unpack it, and name its files")
    data_files = sorted((info for info in files if is_searched(_name(info))), key=lambda info: info.filename)
    if recognises:
        data_files = [info for info in data_files if not is_readme(_name(info))] or data_files
    if not data_files:
        raise DataError(f"{path}: no {KINDS} file in this archive; unpack it, and name the files")
    return data_files


def _name(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(info.filename)


def _display_name(path: Path, info: zipfile.ZipInfo) -> str:
    """Return `archive.zip/folder/name`, without control characters."""
    return f"{path}/{''.join(character if character.isprintable() else '?' for character in info.filename)}"


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Convert zipfile's errors for damaged or hostile archives into DataErrors."""
    try:
        yield
    except DataError:
        raise
    except (struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: damaged or no zip file ({first_line(error)}); fetch or write it again") from error

"""Zip archives, read like folders: the data files in them, in sorted order, each unpacked as it is read. Nothing is written to disk.

An archive may come from anyone: a name in it is text for messages and never a path, and the sizes that it claims are limits.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tfkit.data.formats.file_content import Budget, Content, first_line, reading, unpacked
from tfkit.data.formats.suffixes import KINDS, is_about, is_hidden, is_searched, is_zip, suffix_of
from tfkit.errors import DataError

_ENCRYPTED = 1  # a bit of the flags
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # bzip2 and LZMA may expand a kilobyte to a gigabyte at once


def members(path: Path, *, recognises: bool = True) -> Iterator[Content]:
    """Yield the data files of an archive, while it is open. Raise DataError if it is damaged, unsafe or has none.

    `recognises`: without a README or a licence beside others; as in tfkit 0.1 with them.
    """
    archive, size = _archive(path)
    with archive:
        found = _wanted(archive, path, recognises=recognises)
        Budget(str(path), size).spend(sum(info.file_size for info in found))  # its own claim, before anything is unpacked
        budget = Budget(str(path), size)
        for info in found:
            yield Content(_shown(path, info), suffix_of(_name(info)), "zip", partial(_open, archive, info, path, budget))


def count_members(path: Path, *, recognises: bool = True) -> tuple[int, int]:
    """Return how many files of an archive are read, and how many are skipped. Raise DataError as `members` does."""
    archive, _ = _archive(path)
    with archive:
        found = len(_wanted(archive, path, recognises=recognises))
        return found, sum(1 for info in archive.infolist() if not info.is_dir()) - found


def _archive(path: Path) -> tuple[zipfile.ZipFile, int]:
    """Return an open archive, and its size in bytes."""
    with reading(path, "zip"), _damage(path):
        return zipfile.ZipFile(path), path.stat().st_size


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: Budget) -> IO[bytes]:
    with _damage(path):
        return unpacked(_name(info), archive.open(info), budget)


def _wanted(archive: zipfile.ZipFile, path: Path, *, recognises: bool) -> list[zipfile.ZipInfo]:
    files = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(_name(info))]
    for info in files:
        if is_zip(_name(info)):
            raise DataError(f"{_shown(path, info)}: an archive in an archive is not opened; unpack the outer one, and name its files")
        if not is_searched(_name(info)):
            continue
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"{_shown(path, info)}: is encrypted; unpack it with its password, and name its files")
        if info.compress_type not in _METHODS:
            raise DataError(f"{_shown(path, info)}: is compressed by another method than deflate; unpack it, and name its files")
    found = sorted((info for info in files if is_searched(_name(info))), key=lambda info: info.filename)
    if recognises:
        found = [info for info in found if not is_about(_name(info))] or found
    if not found:
        raise DataError(f"{path}: no {KINDS} file in this archive; unpack it, and name the files")
    return found


def _name(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(info.filename)


def _shown(path: Path, info: zipfile.ZipInfo) -> str:
    """Return `archive.zip/folder/name`, without control characters."""
    return f"{path}/{''.join(sign if sign.isprintable() else '?' for sign in info.filename)}"


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Raise DataError for zipfile's errors on damaged or hostile tables."""
    try:
        yield
    except DataError:
        raise
    except (struct.error, ValueError, OverflowError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: damaged or no zip file ({first_line(error)}); fetch or write it again") from error

"""The bytes of a file or of a member of an archive, decompressed as they are read, and their lines as text.

A damaged file raises DataError. A line that is not UTF-8 is a BadRow. So is a file that is read as a single text, unless it is UTF-8 or
looks like a Western European language in Windows-1252.
"""

import codecs
import gzip
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.compression import Budget, unpacked
from tfkit.data.formats.foreign_bytes import TAR_BYTES, decode_western, encoding_error
from tfkit.data.formats.suffixes import compression_of, suffix_of
from tfkit.errors import DataError, first_line

BOM = b"\xef\xbb\xbf"
OLD_LINE_ENDS = "the lines end with a carriage return alone, as on old Macintosh systems; convert the file (tr '\\r' '\\n' < OLD > NEW)"
_CHUNK = 1 << 20
_CONTROL = re.compile(rb"[\0-\x08]")  # control characters: valid UTF-8, but no text has them
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


class Content(NamedTuple):
    """A file, a member of an archive or a pipe: its name for messages, the suffix that names its format, and the function that opens it."""

    name: str
    suffix: str
    packed: str  # the compression, or the kind of archive; empty for a plain file
    open: Callable[[], IO[bytes]]


class Piece(NamedTuple):
    """A line or a whole file, without a byte order mark."""

    content: bytes
    place: str  # for messages
    offset: int  # the index of the first byte in the decompressed file
    is_marked: bool  # whether the file begins with the byte order mark of UTF-8


def content_of(path: Path) -> Content:
    """Return the content of a file, decompressed if its suffix names a compression."""
    return Content(str(path), suffix_of(path), compression_of(path), lambda: _open(path))


def _open(path: Path) -> IO[bytes]:
    file = path.open("rb")
    return unpacked(path, file, Budget(str(path), path.stat().st_size)) if compression_of(path) else file


@contextmanager
def reading(name: Path | str, packed: str = "gzip") -> Iterator[None]:
    """Convert errors in reading a file into DataErrors that name the file. `packed`: its compression or kind of archive."""
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(name, packed, error) from error
    except OSError as error:
        if error.errno is None:  # the error is a decompressor's, not the operating system's
            raise _damaged(name, packed, error) from error
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); check that it exists, and its permissions") from error


def _damaged(name: Path | str, packed: str, error: BaseException) -> DataError:
    return DataError(f"{name}: damaged or cut {packed} file ({first_line(error)}); fetch or write it again")


@contextmanager
def opened(content: Content) -> Iterator[IO[bytes]]:
    """Open the bytes of a file, or of a member of an archive. Errors in reading them become DataErrors."""
    with reading(content.name, content.packed), content.open() as file:
        yield file


@contextmanager
def seekable(content: Content) -> Iterator[IO[bytes]]:
    """Open as `opened` does, but return a seekable file: compressed content is first decompressed into an unnamed temporary file."""
    with opened(content) as file:
        if not content.packed:
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy


def raw_lines(content: Content) -> Iterator[Piece]:
    """Yield the lines with their line ends, without a byte order mark. Only a line feed ends a line."""
    offset = 0
    is_marked = False
    with opened(content) as file:
        for number, line in enumerate(file, 1):
            bare = line.removeprefix(BOM) if number == 1 else line
            is_marked = is_marked or len(bare) < len(line)
            yield Piece(bare, f"{content.name}:{number}", offset + len(line) - len(bare), is_marked)
            offset += len(line)


def row_lines(content: Content) -> Iterator[Piece]:
    """Yield the `raw_lines` of a file of rows. Raise DataError if its lines end with carriage returns alone: they would be one row."""
    for number, line in enumerate(raw_lines(content)):
        if number == 0 and not line.content.endswith(b"\n") and b"\r" in line.content.rstrip(b"\r"):
            raise DataError(f"{line.place}: {OLD_LINE_ENDS}")
        yield line


def read_whole(content: Content) -> Piece:
    """Read a whole file, without a byte order mark."""
    with opened(content) as file:
        data = file.read()
    is_marked = data.startswith(BOM)
    return Piece(data.removeprefix(BOM), content.name, len(BOM) if is_marked else 0, is_marked)


def is_utf8(content: Content) -> bool:
    """Whether a file is UTF-8 as a whole."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(content) as file, suppress(UnicodeDecodeError):
        while chunk := file.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
        return True
    return False


def decode(piece: Piece, *, may_be_western: bool = False) -> str | BadRow:
    """Decode a piece as UTF-8, or, if `may_be_western` and without a byte order mark, by `decode_western`; else return a BadRow."""
    content, place, offset, is_marked = piece
    if offset == 0 and _CONTROL.search(content[:TAR_BYTES]) and (bad := encoding_error(content, place)):
        return bad
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if offset == 0 and (bad := encoding_error(content, place)):
            return bad
        if may_be_western and not is_marked and (text := decode_western(content)) is not None:
            return text
        byte = f"byte {offset + error.start} (0x{content[error.start]:02x})"
        return BadRow("not UTF-8", f"{place}: {byte} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")

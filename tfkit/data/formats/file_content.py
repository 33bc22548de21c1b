"""The input of a format: the bytes of a file, or of a member of an archive, unpacked as they are read, and their lines as text.

Damage to a whole file raises DataError; a line that is not UTF-8 is a BadRow.
"""

import gzip
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, NamedTuple

from tfkit.data.columns.rows import BadRow, megabytes
from tfkit.data.formats.suffixes import is_gzip, suffix_of
from tfkit.errors import DataError

BOM = b"\xef\xbb\xbf"
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
_WIDE = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

# Text compresses three to twenty times; deflate can reach a thousand.
_MOST_TIMES, _ALWAYS_ALLOWED = 250, 1 << 28


class Content(NamedTuple):
    """A file, or a member of an archive: its name for messages, the suffix of its format, and the function that opens it."""

    name: str
    suffix: str
    packed: str  # gzip or zip; empty for a plain file
    open: Callable[[], IO[bytes]]


class Piece(NamedTuple):
    """A line or a whole file: its bytes, its name for messages, and its offset in the file, in bytes."""

    content: bytes
    place: str
    offset: int


class Budget:
    """The bytes that may still come out of an archive: hardly a limit for text, but an end for what only fills memory or time."""

    def __init__(self, name: str, size: int, remedy: str = "if it is intended, unpack it and name its files"):
        self.name, self.size, self.remedy = name, size, remedy
        self.left = max(_ALWAYS_ALLOWED, _MOST_TIMES * size)

    def spend(self, count: int) -> None:
        """Raise DataError if fewer are left."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{self.name}: unpacks to more than {_MOST_TIMES} times its {megabytes(self.size)}, as no text does; {self.remedy}"
            )


class _Counted(io.RawIOBase):
    """An unpacked stream whose bytes count against a budget; `packed`, if it is another stream, is closed with it."""

    def __init__(self, stream: IO[bytes], packed: IO[bytes], budget: Budget):
        super().__init__()
        self.stream, self.packed, self.budget = stream, packed, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self.stream.read(len(buffer))
        self.budget.spend(len(chunk))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self.stream.close()
        self.packed.close()
        super().close()


def content_of(path: Path) -> Content:
    """Return the content of a file, or of the file in a .gz."""
    return Content(str(path), suffix_of(path), "gzip" if is_gzip(path) else "", lambda: _open(path))


def _open(path: Path) -> IO[bytes]:
    return unpacked(path, path.open("rb"), Budget(str(path), path.stat().st_size)) if is_gzip(path) else path.open("rb")


def unpacked(name: PurePath, packed: IO[bytes], budget: Budget) -> IO[bytes]:
    """Return the unpacked stream of a .gz, by its name; any other unchanged."""
    stream: IO[bytes] = gzip.GzipFile(fileobj=packed) if is_gzip(name) else packed  # type: ignore[assignment]
    return io.BufferedReader(_Counted(stream, packed, budget), 1 << 16)


@contextmanager
def reading(name: Path | str, packed: str = "gzip") -> Iterator[None]:
    """Raise DataError with the file's name for whatever goes wrong while it is read."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{name}: damaged or cut {packed} file ({first_line(error)}); fetch or write it again") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); check that it exists and its permissions") from error


@contextmanager
def opened(content: Content) -> Iterator[IO[bytes]]:
    """Open a content's bytes, and close them at the end; what goes wrong meanwhile is a DataError."""
    with reading(content.name, content.packed), content.open() as file:
        yield file


@contextmanager
def seekable(content: Content) -> Iterator[IO[bytes]]:
    """Open as `opened`, for formats that are read from their end: a packed file goes into a temporary file without a name."""
    with opened(content) as file:
        if not content.packed:
            yield file
            return
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(file, whole)
            whole.seek(0)
            yield whole


def pieces(content: Content) -> Iterator[Piece]:
    """Yield lines with their ends, without a byte order mark. Only a line feed, with or without a carriage return, ends a line."""
    offset = 0
    with opened(content) as file:
        for number, line in enumerate(file, 1):
            bare = line.removeprefix(BOM) if number == 1 else line
            yield Piece(bare, f"{content.name}:{number}", offset + len(line) - len(bare))
            offset += len(line)


def whole(content: Content) -> Piece:
    """Read a whole file, without a byte order mark."""
    with opened(content) as file:
        found = file.read()
    return Piece(found.removeprefix(BOM), content.name, len(BOM) if found.startswith(BOM) else 0)


def decode(piece: Piece) -> str | BadRow:
    """Return the text of a piece, or the error in its bytes."""
    content, place, offset = piece
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if offset == 0 and (bad := wide(content, place)):
            return bad
        found = f"byte {offset + error.start} (0x{content[error.start]:02x})"
        return BadRow("not UTF-8", f"{place}: {found} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")


def wide(content: bytes, place: str) -> BadRow | None:
    """Return an error for a file whose first bytes show another encoding, else None."""
    for mark, name in _WIDE.items():
        if content.startswith(mark):
            message = f"{place}: this is {name}, by its first bytes; convert the file (iconv -f {name} -t UTF-8)"
            return BadRow(f"{name}, not UTF-8", message)
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]

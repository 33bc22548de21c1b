"""What a format reads: the bytes of a file, or of a member of an archive, unpacked as they are read, and their lines as text.

Whatever is wrong with a whole file raises DataError; a line that is not UTF-8 is a BadRow.
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

# Text packs three to twenty times smaller; deflate can do a thousand.
_MOST_TIMES, _ALWAYS_ALLOWED = 250, 1 << 28


class Content(NamedTuple):
    """A file, or a member of an archive: its name for messages, the suffix that tells its format, and what opens it."""

    name: str
    suffix: str
    packed: str  # gzip or zip; empty for a plain file
    open: Callable[[], IO[bytes]]


class Piece(NamedTuple):
    """A line or a whole file: its bytes, its name for messages, and where in the file it begins, in bytes."""

    content: bytes
    place: str
    offset: int


class Budget:
    """How many bytes may still come out of an archive of a size: hardly any limit for text, an end for what only fills memory or time."""

    def __init__(self, name: str, size: int, remedy: str = "if it is what you want, unpack it and name what it holds"):
        self.name, self.size, self.remedy = name, size, remedy
        self.left = max(_ALWAYS_ALLOWED, _MOST_TIMES * size)

    def spend(self, count: int) -> None:
        """Raise DataError if there are not so many left."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{self.name}: unpacks to more than {_MOST_TIMES} times its {megabytes(self.size)}, as no text does; {self.remedy}"
            )


class _Counted(io.RawIOBase):
    """An unpacked stream whose bytes are taken from a budget; `packed`, if that is another, is closed with it."""

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
    """The content of a file, of what a .gz holds."""
    return Content(str(path), suffix_of(path), "gzip" if is_gzip(path) else "", lambda: _open(path))


def _open(path: Path) -> IO[bytes]:
    return unpacked(path, path.open("rb"), Budget(str(path), path.stat().st_size)) if is_gzip(path) else path.open("rb")


def unpacked(name: PurePath, packed: IO[bytes], budget: Budget) -> IO[bytes]:
    """What a stream holds, by its name: of a .gz what gzip unpacks."""
    stream: IO[bytes] = gzip.GzipFile(fileobj=packed) if is_gzip(name) else packed  # type: ignore[assignment]
    return io.BufferedReader(_Counted(stream, packed, budget), 1 << 16)


@contextmanager
def reading(name: Path | str, packed: str = "gzip") -> Iterator[None]:
    """Whatever goes wrong while a file is read is a DataError with its name."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{name}: damaged or cut {packed} file ({first_line(error)}); fetch or write it again") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); check that it exists and its permissions") from error


@contextmanager
def opened(content: Content) -> Iterator[IO[bytes]]:
    """The bytes of a content, closed at the end; what goes wrong meanwhile is a DataError."""
    with reading(content.name, content.packed), content.open() as file:
        yield file


@contextmanager
def seekable(content: Content) -> Iterator[IO[bytes]]:
    """As opened, for formats that are read from their end: what is packed goes into a temporary file without a name."""
    with opened(content) as file:
        if not content.packed:
            yield file
            return
        with tempfile.TemporaryFile() as whole:
            shutil.copyfileobj(file, whole)
            whole.seek(0)
            yield whole


def pieces(content: Content) -> Iterator[Piece]:
    """Lines with their ends, without a byte order mark. Only a line feed, with or without a carriage return, ends a line."""
    offset = 0
    with opened(content) as file:
        for number, line in enumerate(file, 1):
            bare = line.removeprefix(BOM) if number == 1 else line
            yield Piece(bare, f"{content.name}:{number}", offset + len(line) - len(bare))
            offset += len(line)


def whole(content: Content) -> Piece:
    """All of a file at once, without a byte order mark."""
    with opened(content) as file:
        found = file.read()
    return Piece(found.removeprefix(BOM), content.name, len(BOM) if found.startswith(BOM) else 0)


def decode(piece: Piece) -> str | BadRow:
    """The text of a piece, or what is wrong with its bytes."""
    content, place, offset = piece
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if offset == 0 and (bad := wide(content, place)):
            return bad
        found = f"byte {offset + error.start} (0x{content[error.start]:02x})"
        return BadRow("not UTF-8", f"{place}: {found} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")


def wide(content: bytes, place: str) -> BadRow | None:
    """What is said of the beginning of a file that is in another encoding by its first bytes."""
    for mark, name in _WIDE.items():
        if content.startswith(mark):
            message = f"{place}: this is {name}, by its first bytes; convert the file (iconv -f {name} -t UTF-8)"
            return BadRow(f"{name}, not UTF-8", message)
    return None


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error) or type(error).__name__).splitlines()[0]

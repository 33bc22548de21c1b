"""The bytes of a file or of a member of an archive, decompressed as they are read, and their lines as text.

A damaged file raises DataError. A line that is not UTF-8 is a BadRow; so is a text, unless it looks like a Western language in
Windows-1252.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, NamedTuple, cast

from tfkit.data.columns.rows import BadRow, megabytes
from tfkit.data.formats.suffixes import compression_of, suffix_of
from tfkit.errors import DataError

BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
_ENOUGH_BYTES = 200  # a text must be this long for its encoding to be recognised
_CONTROL = re.compile(rb"[\0-\x08]")  # in no text, though UTF-8
_TAR, _TAR_BYTES = b"ustar", 512  # at the 257th byte of the first header
_UTF8_LETTER, _LETTER = re.compile(rb"[\xc2\xc3][\x80-\xbf]"), re.compile("[A-Za-z]")
_NOT_WESTERN = re.compile(r"[^\x00-\x7f]{4}|[\x00-\x08\x0e-\x1fÿƒ]|[A-Za-z][^\x00-\x7f\w\s‘’´·–—…\xad][A-Za-z]|[A-Za-z][¹²³][A-Za-z]")
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
_OTHER_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# The first bytes of formats that are not read at all, or not under any suffix, with the remedy.
_SIGNATURES = {
    "name it with its suffix": {
        "gzip": b"\x1f\x8b",
        "bzip2": b"BZh",
        "xz": b"\xfd7zXZ\0",
        "zstd": b"\x28\xb5\x2f\xfd",
        "Parquet": b"PAR1",
    },
    "name it .zip if it is an archive of data files; else save its content as csv or as text": {
        "a zip file or an Office document": b"PK\3\4"
    },
    "unpack it, and name its files": {
        "a 7z archive": b"7z\xbc\xaf\x27\x1c",
        "a rar archive": b"Rar!\x1a\7",
        "lz4": b"\4\x22\x4d\x18",
        "compress": b"\x1f\x9d",
        "a cab archive": b"MSCF\0",
    },
    "save its text as a .txt file": {"PDF": b"%PDF-"},
    "save its content as csv or as text": {"an old Office document": b"\xd0\xcf\x11\xe0"},
    "write its rows as JSON lines or Parquet": {
        "an Arrow file": b"ARROW1",
        "an Arrow stream": b"\xff\xff\xff\xff",
        "an SQLite database": b"SQLite format 3\0",
        "HDF5": b"\x89HDF",
        "NumPy's": b"\x93NUMPY",
        "Avro": b"Obj\1",
        "a pickle, which is never opened": b"\x80\4\x95",
    },
}

# Text compresses by a factor of 3 to 20; deflate can reach 1000.
_MAX_RATIO, _MIN_BUDGET = 250, 1 << 28  # decompressed bytes per compressed byte, and bytes that any file may have


class Content(NamedTuple):
    """A file or a member of an archive: its name for messages, the suffix that names its format, and the function that opens it."""

    name: str
    suffix: str
    packed: str  # the compression, or the kind of archive; empty for a plain file
    open: Callable[[], IO[bytes]]


class Piece(NamedTuple):
    """A line or a whole file: its bytes, its place for messages, its offset in the file in bytes, and whether the file begins with the byte
    order mark of UTF-8.
    """

    content: bytes
    place: str
    offset: int
    is_marked: bool


class Budget:
    """A limit on the decompressed bytes of a file, against decompression bombs; text does not reach it. `size`: compressed bytes."""

    def __init__(self, name: str, size: int, remedy: str = "if it is intended, unpack it and name its files"):
        self.name, self.size, self.remedy = name, size, remedy
        self.left = max(_MIN_BUDGET, _MAX_RATIO * size)

    def spend(self, count: int) -> None:
        """Subtract decompressed bytes. Raise DataError if the budget is exceeded."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{self.name}: unpacks to more than {_MAX_RATIO} times its {megabytes(self.size)}, as no text does; {self.remedy}"
            )


class _BudgetedStream(io.RawIOBase):
    """A decompressed stream whose bytes count against a budget. Closing it also closes `packed`, the stream below it."""

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
    """Return the content of a file, decompressed if its suffix is that of a compression."""
    return Content(str(path), suffix_of(path), compression_of(path), lambda: _open(path))


def _open(path: Path) -> IO[bytes]:
    file = path.open("rb")
    return unpacked(path, file, Budget(str(path), path.stat().st_size)) if compression_of(path) else file


def unpacked(name: PurePath, packed: IO[bytes], budget: Budget) -> IO[bytes]:
    """Return a stream that counts against the budget, decompressed as the name's suffix says."""
    return io.BufferedReader(_BudgetedStream(_decompressed(packed, compression_of(name)), packed, budget), 1 << 16)


def _decompressed(packed: IO[bytes], compression: str) -> IO[bytes]:
    match compression:
        case "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
        case "bzip2":
            return bz2.BZ2File(packed)
        case "xz":
            return lzma.LZMAFile(packed)
        case "zstd":
            import pyarrow  # type: ignore[import-untyped]

            return cast(IO[bytes], pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd"))
    return packed


@contextmanager
def reading(name: Path | str, packed: str = "gzip") -> Iterator[None]:
    """Convert errors in reading a file into DataErrors that name it."""
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(name, packed, error) from error
    except OSError as error:
        if error.errno is None:  # the error is a decompressor's, not the operating system's
            raise _damaged(name, packed, error) from error
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); check that it exists and its permissions") from error


def _damaged(name: Path | str, packed: str, error: BaseException) -> DataError:
    return DataError(f"{name}: damaged or cut {packed} file ({first_line(error)}); fetch or write it again")


@contextmanager
def opened(content: Content) -> Iterator[IO[bytes]]:
    """Open the bytes of a content. Errors in reading them become DataErrors."""
    with reading(content.name, content.packed), content.open() as file:
        yield file


@contextmanager
def seekable(content: Content) -> Iterator[IO[bytes]]:
    """Open as `opened` does, as a seekable file; a compressed file is copied into an unnamed temporary file."""
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
    """Return the text of a piece: UTF-8, or, if it `may_be_western`, Windows-1252 in a file that is not marked as UTF-8; else a BadRow."""
    content, place, offset, is_marked = piece
    if offset == 0 and _CONTROL.search(content[:_TAR_BYTES]) and (bad := encoding_error(content, place)):
        return bad
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if offset == 0 and (bad := encoding_error(content, place)):
            return bad
        if may_be_western and not is_marked and (text := _decode_western(content)) is not None:
            return text
        byte = f"byte {offset + error.start} (0x{content[error.start]:02x})"
        return BadRow("not UTF-8", f"{place}: {byte} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")


def _decode_western(content: bytes) -> str | None:
    """Return the text of Windows-1252, which includes Latin-1, if it looks like one of a Western language and is not short; else None.

    There, letters beyond ASCII are few between others. Texts of other alphabets have long runs of such bytes, those of Central Europe have
    symbols within words, and UTF-8 with a damaged byte has whole letters of UTF-8.
    """
    if len(content) < _ENOUGH_BYTES:
        return None
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return None
    return None if _UTF8_LETTER.search(content) or _NOT_WESTERN.search(text) or not _LETTER.search(text) else text


def encoding_error(content: bytes, place: str) -> BadRow | None:
    """Return an error if a file begins with the byte order mark of UTF-16 or UTF-32, or the signature of a binary format, else None."""
    for mark, name in _OTHER_BOMS.items():
        if content.startswith(mark):
            message = f"{place}: this is {name}, by its first bytes; convert the file (iconv -f {name} -t UTF-8)"
            return BadRow(f"{name}, not UTF-8", message)
    if content[257:].startswith(_TAR):
        return BadRow("a tar archive, not text", f"{place}: this is a tar archive, by its first bytes; name it .tar")
    for remedy, signatures in _SIGNATURES.items():
        for name, signature in signatures.items():
            if content.startswith(signature):
                return BadRow(f"{name}, not text", f"{place}: this is {name}, by its first bytes; {remedy}")
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]

"""The formats of local files, each a generator of rows that holds one row at a time.

A row that cannot be read is a BadRow, and reading goes on after it. What damages a whole file raises DataError, with the place.
"""

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tfkit.data.columns import Columns, Record
from tfkit.data.rows import BadRow, Row
from tfkit.errors import DataError

BOM = b"\xef\xbb\xbf"
Rows = Iterator[Row | BadRow]
Records = Iterator[Record | BadRow]
_GZIP_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
_WIDE = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in small letters: `.jsonl` for `a.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def open_binary(path: Path) -> IO[bytes]:
    """The bytes of a file, of what a .gz holds."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_rows(path: Path, columns: Columns) -> Rows:
    """The rows of a file by its suffix; any other suffix than those with columns is text. Raises DataError."""
    reader = COLUMN_FORMATS.get(suffix_of(path))
    records = read_text(path) if reader is None else reader(path, columns)
    return (record if isinstance(record, BadRow) else columns.take(record) for record in records)


def read_text(path: Path) -> Records:
    """A whole text file is one record, with the column `text`; an empty one is none. A byte order mark goes, line ends stay."""
    with reading(path), open_binary(path) as file:
        content = file.read()
    text = _decode(_Piece(content.removeprefix(BOM), str(path), len(BOM) if content.startswith(BOM) else 0))
    if text:
        yield text if isinstance(text, BadRow) else Record({"text": text}, str(path))


def read_jsonl(path: Path, columns: Columns) -> Records:
    """One JSON object a line; empty lines are skipped."""
    for line in _lines(path):
        text = _decode(line)
        if isinstance(text, BadRow):
            yield text
        elif not text.isspace():
            yield _json_record(text, line.place)


def read_csv(path: Path, columns: Columns) -> Records:
    """Comma-separated records under a header line (RFC 4180); a field may hold line ends."""
    return _read_separated(path, columns, ",")


def read_tsv(path: Path, columns: Columns) -> Records:
    """As csv, separated by tabs."""
    return _read_separated(path, columns, "\t")


def read_parquet(path: Path, columns: Columns) -> Records:
    """The wanted columns of a Parquet file, a batch of records at a time. Places count rows from 1."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with reading(path), _seekable(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            columns.check(table.schema_arrow.names, str(path))
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=columns.wanted(table.schema_arrow.names)):
                for scalars in zip(*batch.columns, strict=True):
                    number += 1
                    yield _parquet_record(dict(zip(batch.schema.names, scalars, strict=True)), f"{path}:{number}")
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # names in the schema are text too
            raise DataError(f"{path}: damaged or no Parquet file ({_first_line(error)}); fetch or write it again") from error


COLUMN_FORMATS: dict[str, Callable[[Path, Columns], Records]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}


class _Piece(NamedTuple):
    """A line or a whole file: its bytes, its name for messages, and where in the file it begins, in bytes."""

    content: bytes
    place: str
    offset: int


def _json_record(text: str, place: str) -> Record | BadRow:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of more than 4300 digits is a plain ValueError
        reason = "too deeply nested" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        cut = "" if text.endswith("\n") else "; the last line has no end, so writing it may have been cut short"
        return BadRow("not JSON", f"{place}: not a JSON object ({reason}){cut}; repair or remove this line")
    if not isinstance(record, dict):
        found = type(record).__name__
        return BadRow("not a JSON object", f'{place}: expected a JSON object, found {found}; write {{"column": ...}} a line')
    return Record(record, place)


def _parquet_record(scalars: dict[str, Any], place: str) -> Record | BadRow:
    values: dict[str, Any] = {}
    for column, scalar in scalars.items():
        try:
            values[column] = scalar.as_py()
        except UnicodeDecodeError as error:
            return BadRow("not UTF-8", f"{place}: byte {error.start} of column {column!r} is not UTF-8; write the file again")
        except (ValueError, OverflowError) as error:  # a date that Python has no value for
            return BadRow("not text", f"{place}: column {column!r} holds {scalar.type}, not text ({_first_line(error)}); remove the row")
    return Record(values, place)


def _read_separated(path: Path, columns: Columns, delimiter: str) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 kB
    bad_lines: list[BadRow] = []  # of the record that is being read
    reader = csv.reader(_decoded(path, bad_lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1  # the line on which a record begins
    while True:
        place = f"{path}:{start}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = []
            bad_lines.append(BadRow("not CSV", f"{place}: not a valid record ({error}); close the quotes, repair the row"))
        start = reader.line_num + 1
        if bad_lines:
            if header is None:
                raise DataError(bad_lines[0].message)
            yield bad_lines[0]
            bad_lines.clear()
        elif fields and header is None:
            header = fields
            columns.check(header, place)
        elif fields and header is not None:
            yield _csv_record(fields, header, place)


def _csv_record(fields: list[str], header: list[str], place: str) -> Record | BadRow:
    if len(fields) != len(header):
        return BadRow(
            "wrong number of fields", f"{place}: {len(fields)} fields under a header of {len(header)}; quote the field, repair the row"
        )
    return Record(dict(zip(header, fields, strict=True)), place)


def _decoded(path: Path, bad_lines: list[BadRow]) -> Iterator[str]:
    """The lines for the csv reader, which must see every quote; those that are not UTF-8 are also put into `bad_lines`."""
    for line in _lines(path):
        text = _decode(line)
        if isinstance(text, BadRow):
            bad_lines.append(text)
            yield line.content.decode(errors="surrogateescape")
        else:
            yield text


def _lines(path: Path) -> Iterator[_Piece]:
    """Lines with their ends, without a byte order mark."""
    offset = 0
    with reading(path), open_binary(path) as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(BOM) if number == 1 else line
            yield _Piece(content, f"{path}:{number}", offset + len(line) - len(content))
            offset += len(line)


def _decode(piece: _Piece) -> str | BadRow:
    content, place, offset = piece
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        for mark, name in _WIDE.items():
            if offset == 0 and content.startswith(mark):
                return BadRow(
                    f"{name}, not UTF-8", f"{place}: this is {name}, by its first bytes; convert the file (iconv -f {name} -t UTF-8)"
                )
        found = f"byte {offset + error.start} (0x{content[error.start]:02x})"
        return BadRow("not UTF-8", f"{place}: {found} is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is a DataError with its name."""
    try:
        yield
    except _GZIP_DAMAGE as error:
        raise DataError(f"{path}: damaged or cut gzip file ({_first_line(error)}); fetch or write it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check that it exists and its permissions") from error


@contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """Parquet is read from its end, which gzip cannot seek: unpack into a temporary file."""
    with open_binary(path) as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
            yield unpacked


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

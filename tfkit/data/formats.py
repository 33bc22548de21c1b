"""The formats of local files, each a generator of rows that holds one row at a time; every damage becomes a DataError with its place."""

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tfkit.data.rows import Row
from tfkit.errors import DataError

BOM = b"\xef\xbb\xbf"
_GZIP_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


def suffix_of(path: Path) -> str:
    """The suffix that tells the format, in small letters: `.jsonl` for `a.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def open_binary(path: Path) -> IO[bytes]:
    """The bytes of a file, of what a .gz holds."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_rows(path: Path, column: str) -> Iterator[Row]:
    """The rows of a file by its suffix; any other suffix than those with columns is text. Raises DataError."""
    reader = COLUMN_FORMATS.get(suffix_of(path))
    return read_text(path) if reader is None else reader(path, column)


def read_text(path: Path) -> Iterator[Row]:
    """A whole text file is one row; an empty one is none. A byte order mark goes, line ends stay."""
    with _reading(path), open_binary(path) as file:
        content = file.read()
    text = _decode(content.removeprefix(BOM), str(path), len(BOM) if content.startswith(BOM) else 0)
    if text:
        yield Row(text, str(path))


def read_jsonl(path: Path, column: str) -> Iterator[Row]:
    """One JSON object a line; empty lines are skipped."""
    for number, line in _lines(path):
        if line.isspace():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", "too deeply nested")
            cut = "" if line.endswith("\n") else "; the last line has no end, so writing it may have been cut short"
            raise DataError(f"{place}: not a JSON object ({reason}){cut}; repair or remove this line") from error
        if not isinstance(record, dict):
            raise DataError(f'{place}: expected a JSON object, found {type(record).__name__}; write {{"{column}": ...}} a line')
        yield Row(take_column(record, column, place), place)


def read_csv(path: Path, column: str) -> Iterator[Row]:
    """Comma-separated records under a header line (RFC 4180); a field may hold line ends."""
    return _read_separated(path, column, ",")


def read_tsv(path: Path, column: str) -> Iterator[Row]:
    """As csv, separated by tabs."""
    return _read_separated(path, column, "\t")


def read_parquet(path: Path, column: str) -> Iterator[Row]:
    """The column of a Parquet file, a batch of records at a time. Places count rows from 1."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    with _reading(path), _seekable(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            if column not in table.schema_arrow.names:
                raise _missing(str(path), column, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    place = f"{path}:{number}"
                    yield Row(take_column({column: text}, column, place), place)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: column {column!r} holds text that is not UTF-8 near row {number + 1}; write the file again"
            ) from error
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged or no Parquet file ({_first_line(error)}); fetch or write it again") from error


COLUMN_FORMATS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}


def take_column(record: dict[str, Any], column: str, place: str) -> str:
    """The text of a record. Raises DataError where the column is missing, or is no text that UTF-8 can hold."""
    if column not in record:
        raise _missing(place, column, list(record))
    text = record[column]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise DataError(f"{place}: column {column!r} holds {kind}, not text; remove the row, or name another column with text: NAME")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: column {column!r} holds half a surrogate pair at character {error.start}; repair the row") from error
    return text


def _missing(place: str, column: str, found: list[str]) -> DataError:
    names = ", ".join(map(str, found)) or "none"
    return DataError(f"{place}: no column {column!r}; columns found: {names}; name the one that holds the text with text: NAME")


def _read_separated(path: Path, column: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 kB
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1  # the line on which a record begins
    try:
        for fields in reader:
            place, start = f"{path}:{start}", reader.line_num + 1
            if not fields:
                continue
            if header is None:
                header = fields
                if column not in header:
                    raise _missing(place, column, header)
                continue
            if len(fields) != len(header):
                raise DataError(f"{place}: {len(fields)} fields under a header of {len(header)}; quote the field, or repair the row")
            yield Row(fields[header.index(column)], place)
    except csv.Error as error:
        raise DataError(f"{path}:{start}: not a valid record ({error}); close the quotes, or repair the row") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, without a byte order mark."""
    offset = 0
    with _reading(path), open_binary(path) as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(BOM) if number == 1 else line
            yield number, _decode(content, f"{path}:{number}", offset + len(line) - len(content))
            offset += len(line)


def _decode(content: bytes, place: str, offset: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        where = offset + error.start
        found = f"byte {where} (0x{content[error.start]:02x})"
        raise DataError(f"{place}: {found} is not UTF-8; convert the file (iconv -f latin1 -t utf-8), or leave it out") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
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

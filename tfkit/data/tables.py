"""Tables as rows: comma- or tab-separated text under a header line, and Parquet."""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

from tfkit.data.columns import Columns, Record, Records
from tfkit.data.content import Content, decode, first_line, pieces, seekable
from tfkit.data.rows import BadRow
from tfkit.errors import DataError


def read_csv(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Comma-separated records under a header line, or the header that is given (RFC 4180); a field may hold line ends."""
    return _read_separated(content, columns, ",", header)


def read_tsv(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Records separated by tabs. A quote that is not closed on its line is a character as any other, as in most files of this kind (GLUE),
    unless the line has too few fields: then it is quoted as in csv, and the field may hold line ends."""
    return _read_separated(content, columns, "\t", header)


class _TsvReader:
    """As csv.reader, by the rule of read_tsv."""

    MOST_LINES = 200  # of one record: a quote that is never closed must not swallow the file

    def __init__(self, lines: Iterator[str], width: int):
        self.line_num = 0
        self.width = width  # fields of a record; 0: those of the first line
        self._lines = lines
        self._ahead: deque[str] = deque()  # lines that were looked at and belong to later records

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[str]:
        text = self._line()
        if '"' not in text:
            fields = _one_record([text], csv.QUOTE_NONE)
        else:
            try:
                fields = _one_record([text], csv.QUOTE_MINIMAL)
            except csv.Error:
                fields = _one_record([text], csv.QUOTE_NONE)
                if len(fields) < self.width:
                    fields = self._over_lines(text)
        self.width = self.width or len(fields)
        return fields

    def _line(self) -> str:
        text = self._ahead.popleft() if self._ahead else next(self._lines)
        self.line_num += 1
        return text

    def _over_lines(self, first: str) -> list[str]:
        """The record that begins with a line, and ends with one of the next. Raises csv.Error, with only the first line gone."""
        taken = [first]
        for more in islice(iter(self._line, None), self.MOST_LINES):
            taken.append(more)
            if '"' in more:
                try:
                    return _one_record(taken, csv.QUOTE_MINIMAL)
                except csv.Error:
                    continue
        self._ahead.extendleft(reversed(taken[1:]))
        self.line_num -= len(taken) - 1
        raise csv.Error("a quote is not closed")


def _one_record(lines: list[str], quoting: Any) -> list[str]:
    """The fields of lines that are one record. Raises csv.Error if they are not."""
    [fields] = list(csv.reader(lines, delimiter="\t", quoting=quoting, strict=True)) or [[]]
    return fields


def _read_separated(content: Content, columns: Columns, delimiter: str, given: tuple[str, ...]) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 kB
    bad_lines: list[BadRow] = []  # of the record that is being read
    lines = _decoded(content, bad_lines)
    reader = _TsvReader(lines, len(given)) if delimiter == "\t" else csv.reader(lines, delimiter=delimiter, strict=True)
    header = list(given)
    if given:
        columns.check(header, content.name)
    start = 1  # the line on which a record begins
    while True:
        place = f"{content.name}:{start}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = []
            bad_lines.append(BadRow("not CSV", f"{place}: not a valid record ({error}); close the quotes, repair the row"))
        start = reader.line_num + 1
        if bad_lines:
            if not header:
                raise DataError(bad_lines[0].message)
            yield bad_lines[0]
            bad_lines.clear()
        elif fields and not header:
            header = fields
            read = () if columns.beyond_roles else columns.wanted(header)
            if twice := next((name for name in read if header.count(name) > 1), None):
                raise DataError(f"{place}: two columns are called {twice!r}, and it is read: rename one")
            columns.check(header, place)
        elif given and fields == list(given) and place.endswith(":1"):
            raise DataError(f"{place}: the file has this header itself; remove header")
        elif fields:
            yield _separated_record(fields, header, place)


def _separated_record(fields: list[str], header: list[str], place: str) -> Record | BadRow:
    if len(fields) != len(header):
        return BadRow(
            "wrong number of fields", f"{place}: {len(fields)} fields under a header of {len(header)}; quote the field, repair the row"
        )
    return Record(dict(zip(header, fields, strict=True)), place)


def _decoded(content: Content, bad_lines: list[BadRow]) -> Iterator[str]:
    """The lines for the csv reader, which must see every quote; those that are not UTF-8 are also put into `bad_lines`."""
    for line in pieces(content):
        text = decode(line)
        if isinstance(text, BadRow):
            bad_lines.append(text)
            yield line.content.decode(errors="surrogateescape")
        else:
            yield text


def read_parquet(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """The wanted columns of a Parquet file, a batch of records at a time. Places count rows from 1."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    name = content.name
    with seekable(content) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            columns.check(table.schema_arrow.names, name)
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=columns.wanted(table.schema_arrow.names)):
                for scalars in zip(*batch.columns, strict=True):
                    number += 1
                    yield _parquet_record(dict(zip(batch.schema.names, scalars, strict=True)), f"{name}:{number}")
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # names in the schema are text too
            raise DataError(f"{name}: damaged or no Parquet file ({first_line(error)}); fetch or write it again") from error


def _parquet_record(scalars: dict[str, Any], place: str) -> Record | BadRow:
    values: dict[str, Any] = {}
    for column, scalar in scalars.items():
        try:
            values[column] = scalar.as_py()
        except UnicodeDecodeError as error:
            return BadRow("not UTF-8", f"{place}: byte {error.start} of column {column!r} is not UTF-8; write the file again")
        except (ValueError, OverflowError) as error:  # a date that Python has no value for
            return BadRow("not text", f"{place}: column {column!r} holds {scalar.type}, not text ({first_line(error)}); remove the row")
    return Record(values, place)

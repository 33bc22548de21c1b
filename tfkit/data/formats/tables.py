"""Readers of tables: text separated by commas, tabs or other characters, with a header line or a given header."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import NamedTuple

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.file_content import OLD_LINE_ENDS, Content, decode, row_lines
from tfkit.errors import DataError


class _Line(NamedTuple):
    """A line with its line end; `bad`: the error if the line is not UTF-8."""

    text: str
    bad: BadRow | None


class _PlainReader:
    """A csv.reader for any delimiter but a comma. In a single line, quotes delimit fields, as in csv; but if only reading
    them as ordinary characters gives the line as many fields as the header, as in the files of GLUE, they are ordinary characters.

    A quote that is not closed in its line may begin a field of several lines, or be an ordinary character. The lines up to the closing
    quote are one record if together they have the header's number of fields, unless they look like rows themselves: most of them have
    that number of fields, including one between the first and the last. If most of the lines have that number, but none between the
    first and the last does, they are rows only if a line up to the first, or one of the 200 after it, has a quote that csv would double.
    """

    MAX_LINES = 10_000  # the most lines of one record, so that an unclosed quote does not read the whole file into memory
    MAX_LOOKAHEAD = 200  # the most following lines that are searched for a quote that a csv writer would have doubled (`_is_plain_quote`)

    def __init__(self, lines: Iterator[_Line], delimiter: str, width: int, bad_lines: list[BadRow]):
        """`width`: the number of fields in a record; 0: as many as in the first. `bad_lines` gets the errors in the lines of a record."""
        self.line_num = 0
        self.width = width
        self._delimiter = delimiter
        self._quote_within = re.compile(f'[^{re.escape(delimiter)}]"[^{re.escape(delimiter)}\\r\\n]')
        self._lines = lines
        self._ahead: deque[_Line] = deque()  # lines that were read and not yet consumed
        self._bad_lines = bad_lines
        self._has_plain_quotes = False

    def __next__(self) -> list[str]:
        text = self._take()
        fields = self._quoted(text) if '"' in text else self._plain(text)
        self.width = self.width or len(fields)
        return fields

    def _quoted(self, first: str) -> list[str]:
        """Return the fields of the record that begins with this line, which contains a quote."""
        self._has_plain_quotes = self._has_plain_quotes or self._is_plain_quote(first)
        plain = self._plain(first)
        reader = csv.reader(chain([first], islice(self._peek(), self.MAX_LINES)), delimiter=self._delimiter, strict=True)
        try:
            fields = next(reader)
        except csv.Error:  # a quote inside a field, or one that is never closed
            return plain
        if reader.line_num == 1:
            return plain if len(plain) == self.width != len(fields) else fields
        lines = [first, *islice(self._peek(), reader.line_num - 1)]
        if len(fields) != self.width or self._are_rows(lines):
            return plain
        for _ in lines[1:]:
            self._take()
        return fields

    def _are_rows(self, lines: list[str]) -> bool:
        """Whether lines that could together be one record are more likely separate records."""
        fit = [len(self._plain(line)) == self.width for line in lines]
        if 2 * sum(fit) <= len(fit):
            return False
        if not any(fit[1:-1]) and not self._has_plain_quotes:
            self._has_plain_quotes = any(map(self._is_plain_quote, islice(self._peek(), self.MAX_LOOKAHEAD)))
        return any(fit[1:-1]) or self._has_plain_quotes

    def _take(self) -> str:
        text, bad = self._ahead.popleft() if self._ahead else next(self._lines)
        self.line_num += 1
        if bad:
            self._bad_lines.append(bad)
        return text

    def _peek(self) -> Iterator[str]:
        """Yield the next lines without consuming them."""
        for number in count():
            if number == len(self._ahead):
                self._ahead.extend(islice(self._lines, 1))
            if number == len(self._ahead):
                return
            yield self._ahead[number].text

    def _plain(self, line: str) -> list[str]:
        """Return the fields of a line in which quotes are ordinary characters; an empty list for an empty line."""
        bare = line.removesuffix("\n").removesuffix("\r")
        return bare.split(self._delimiter) if bare else []

    def _is_plain_quote(self, line: str) -> bool:
        """Whether a quote inside a field is not doubled. A csv writer doubles such quotes, so the file's quotes are ordinary characters."""
        return self._quote_within.search(line.replace('""', "")) is not None


def allow_long_fields() -> None:
    """Let the module csv read fields of any length, in the whole process; by default it refuses fields over 128 kB."""
    csv.field_size_limit(2**31 - 1)


def read_separated(content: Content, columns: Columns, given: tuple[str, ...] = (), *, delimiter: str) -> Records:
    """Read records with this delimiter, under the header `given` or, if that is empty, the file's header line. A quoted field may contain
    the delimiter and line ends. If the delimiter is a comma, quotes are read as in RFC 4180; for other delimiters see
    _PlainReader. Raise DataError if the header lacks a required column, or if two columns that are read have the same name.
    """
    allow_long_fields()
    bad_lines: list[BadRow] = []  # the bad lines of the current record
    lines = _decoded(content)
    reader = (
        _PlainReader(lines, delimiter, len(given), bad_lines) if delimiter != "," else csv.reader(_texts(lines, bad_lines), strict=True)
    )
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
            fields, is_line_end = [], str(error).startswith("new-line character")
            problem = OLD_LINE_ENDS if is_line_end else f"not a valid record ({error}); close the quotes, repair the row"
            bad_lines.append(BadRow("not CSV", f"{place}: {problem}"))
        start = reader.line_num + 1
        if bad_lines:
            if not header:
                raise DataError(bad_lines[0].message)
            yield bad_lines[0]
            bad_lines.clear()
        elif fields and not header:
            header = fields
            columns.check(header, place)
        elif given and fields == list(given) and place.endswith(":1"):
            raise DataError(f"{place}: the file has this header itself; remove header")
        elif fields and len(fields) == len(header):
            yield Record(dict(zip(header, fields, strict=True)), place)
        elif fields:
            problem = f"{len(fields)} fields under a header of {len(header)}; quote the field, repair the row"
            yield BadRow("wrong number of fields", f"{place}: {problem}")


def _decoded(content: Content) -> Iterator[_Line]:
    """Yield the lines, including those that are not UTF-8, since the reader must see every quote to find where records end."""
    for line in row_lines(content):
        text = decode(line)
        yield _Line(line.content.decode(errors="surrogateescape"), text) if isinstance(text, BadRow) else _Line(text, None)


def _texts(lines: Iterator[_Line], bad_lines: list[BadRow]) -> Iterator[str]:
    """Yield the texts of lines for csv.reader, and append the errors in their encoding to `bad_lines`."""
    for text, bad in lines:
        if bad:
            bad_lines.append(bad)
        yield text

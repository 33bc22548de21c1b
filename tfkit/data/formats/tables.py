"""Tables as rows: comma- or tab-separated text under a header line."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple, Self

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.file_content import Content, decode, pieces
from tfkit.errors import DataError


def read_csv(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Comma-separated records under a header line, or the header that is given (RFC 4180); a field may hold line ends."""
    return _read_separated(content, columns, ",", header)


def read_tsv(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Records separated by tabs: quoted as in csv where that gives the fields of the header, else plain, as files of this kind often are
    (GLUE), where a quote is a character as any other. A quoted field may hold tabs and line ends."""
    return _read_separated(content, columns, "\t", header)


class _Line(NamedTuple):
    """A line with its end; `bad`: what is wrong with its bytes."""

    text: str
    bad: BadRow | None


class _TsvReader:
    """As csv.reader, by the rule of read_tsv.

    A quote that is open at the end of a line may be that of a field over several lines, or a plain character of a row that is whole. The
    lines up to the one where it is closed, at the end of a field, are one record if they have the fields of the header together, unless
    they look like rows themselves: most of them have these fields, too, one in the middle included. If none in the middle has, the file
    decides: they are rows if a quote stands in it as no writer of quoted fields leaves one.
    """

    MOST_LINES = 10_000  # of one record: a quote that is never closed must not read the whole file into memory
    LOOKED_AT = 200  # lines that come, where the file decides

    def __init__(self, lines: Iterator[_Line], width: int, bad_lines: list[BadRow]):
        """`width`: the fields of a record; 0: those of the first line. What is wrong with a line of a record goes into `bad_lines`."""
        self.line_num = 0
        self.width = width
        self._lines = lines
        self._ahead: deque[_Line] = deque()  # lines that were looked at and not yet taken
        self._bad_lines = bad_lines
        self._has_plain_quotes = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[str]:
        text = self._take()
        fields = self._quoted(text) if '"' in text else _plain(text)
        self.width = self.width or len(fields)
        return fields

    def _quoted(self, first: str) -> list[str]:
        """The fields of the record that begins with this line, which has a quote."""
        self._has_plain_quotes = self._has_plain_quotes or _is_plain_quote(first)
        plain, lines = _plain(first), [first]
        try:
            fields = next(csv.reader(self._from(first, lines), delimiter="\t", strict=True))
        except csv.Error:  # a quote within a field, or one that is never closed
            return plain
        if len(lines) == 1:
            return plain if len(plain) == self.width != len(fields) else fields
        if len(fields) != self.width or self._are_rows(lines):
            return plain
        for _ in lines[1:]:
            self._take()
        return fields

    def _are_rows(self, lines: list[str]) -> bool:
        """Whether lines that can be read as one record are better read as one each."""
        fit = [len(_plain(line)) == self.width for line in lines]
        if 2 * sum(fit) <= len(fit):
            return False
        if not any(fit[1:-1]) and not self._has_plain_quotes:
            self._has_plain_quotes = any(map(_is_plain_quote, islice(self._coming(), self.LOOKED_AT)))
        return any(fit[1:-1]) or self._has_plain_quotes

    def _take(self) -> str:
        text, bad = self._ahead.popleft() if self._ahead else next(self._lines)
        self.line_num += 1
        if bad:
            self._bad_lines.append(bad)
        return text

    def _from(self, first: str, given: list[str]) -> Iterator[str]:
        """A line and those that come; of the latter each that is given goes into `given`, too."""
        yield first
        for line in islice(self._coming(), self.MOST_LINES):
            given.append(line)
            yield line

    def _coming(self) -> Iterator[str]:
        """The lines that come; none of them is taken."""
        for number in count():
            if number == len(self._ahead):
                self._ahead.extend(islice(self._lines, 1))
            if number == len(self._ahead):
                return
            yield self._ahead[number].text


def _plain(line: str) -> list[str]:
    """The fields of a line in which quotes are characters; none of an empty one."""
    bare = line.removesuffix("\n").removesuffix("\r")
    return bare.split("\t") if bare else []


def _is_plain_quote(line: str) -> bool:
    """Whether a quote, not doubled, stands between two characters of a field: a quoted field has it doubled, and others have none."""
    return _WITHIN.search(line.replace('""', "")) is not None


_WITHIN = re.compile(r'[^\t]"[^\t\r\n]')


def _read_separated(content: Content, columns: Columns, delimiter: str, given: tuple[str, ...]) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 kB
    bad_lines: list[BadRow] = []  # of the record that is being read
    lines = _decoded(content)
    reader = _TsvReader(lines, len(given), bad_lines) if delimiter == "\t" else csv.reader(_noted(lines, bad_lines), strict=True)
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


def _decoded(content: Content) -> Iterator[_Line]:
    """The lines, also those that are not UTF-8: a reader must see every quote."""
    for line in pieces(content):
        text = decode(line)
        yield _Line(line.content.decode(errors="surrogateescape"), text) if isinstance(text, BadRow) else _Line(text, None)


def _noted(lines: Iterator[_Line], bad_lines: list[BadRow]) -> Iterator[str]:
    """The lines for csv.reader; what is wrong with one goes into `bad_lines`."""
    for text, bad in lines:
        if bad:
            bad_lines.append(bad)
        yield text

"""Readers of JSON lines, with an object on each line, and of JSON, with an array of objects or of arrays that is read item by item.

The package ijson (3.6.0) is not used: an integer of 4301 digits crashes the process, half a surrogate pair silently becomes "?", and no
item after a byte that is not UTF-8 is read.
"""

import codecs
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any, NamedTuple

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.detection import detect_header
from tfkit.data.formats.file_content import BOM, Content, decode, opened, row_lines
from tfkit.data.formats.foreign_bytes import encoding_error
from tfkit.data.formats.squad import questions_of
from tfkit.errors import DataError

_CHUNK = 1 << 20
_HEADER_ROWS = 100  # the number of first rows, each an array, from which a header is detected
_CUT = ", so writing it may have been cut short"
_SPACE = " \t\n\r"
_LINES = "write an array of objects; if each line is an object, set format: jsonl"


def read_jsonl(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read the JSON object on each line as a record, or as several if it is nested (`questions_of`); blank lines are skipped."""
    for line in row_lines(content):
        text = decode(line)
        if isinstance(text, BadRow):
            yield text
        elif not text.isspace():
            record = _parse_line(text, line.place)
            yield from questions_of(record, columns) if isinstance(record, Record) else [record]


def _parse_line(text: str, place: str) -> Record | BadRow:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of more than 4300 digits raises a plain ValueError
        cut = "" if text.endswith("\n") else f"; the last line has no end{_CUT}"
        return BadRow("not JSON", f"{place}: not a JSON object ({_reason(error)}){cut}; repair or remove this line")
    if not isinstance(record, dict):
        kind = type(record).__name__
        return BadRow("not a JSON object", f'{place}: expected a JSON object, found {kind}; write {{"column": ...}} a line')
    return Record(record, place)


def read_json(
    content: Content, columns: Columns, header: tuple[str, ...] = (), keys: Sequence[str] = (), *, numbered: bool = False
) -> Records:
    """Read an array of objects or of arrays, or an object with one array of objects. A record's place has its item's number, from 1.

    `keys`: if the file is an object, the keys of the arrays that are read, one after the other. `header`: the column names of an array of
    arrays; if empty, they are detected. `numbered`: the detected names are 0, 1 ... Raises DataError for a file with other content.
    """
    with opened(content) as file:
        text = _JsonStream(file, content.name)
        match text.peek():
            case "":
                return
            case "[":
                text.expect("[")
                yield from _rows(_items(text), columns, header, numbered=numbered)
            case "{":
                yield from _members(text, columns, header, keys, numbered=numbered)
            case _:
                raise text.broken("begins with neither [ nor {", _LINES)
        if text.peek():
            raise text.broken("more follows after the end", _LINES)


class Arrays(NamedTuple):
    """The arrays in an object: their keys, and, for arrays of arrays, the first rows of each, with values as texts."""

    keys: list[str]
    first_rows: list[list[str]]


def arrays_in(content: Content) -> Arrays:
    """Return the arrays of objects in a JSON object, or, if it has none, its arrays of arrays; no arrays if the file is no object."""
    objects, arrays = Arrays([], []), Arrays([], [])
    with opened(content) as file:
        text = _JsonStream(file, content.name)
        for name, kind, items in _arrays(text) if text.peek() == "{" else ():
            if kind == "[":
                arrays.first_rows.extend(_texts(islice(items, _HEADER_ROWS)))
            {"{": objects, "[": arrays}.get(kind, Arrays([], [])).keys.append(name)
    return objects if objects.keys else arrays


def _texts(items: Iterable["_Item"]) -> list[list[str]]:
    """Return those of the items that are arrays, with each value in them as text."""
    rows = [item.value for item in items if isinstance(item.value, list)]
    return [[cell if isinstance(cell, str) else json.dumps(cell) for cell in row] for row in rows]


class _Item(NamedTuple):
    """An item of an array and its place; `bad`: the error if the item is not UTF-8."""

    value: Any
    place: str
    bad: BadRow | None = None


def _items(text: "_JsonStream", where: str = "") -> Iterator[_Item]:
    """Yield the items of an array whose opening bracket is already consumed. `where`: the array's key, if places include it."""
    number, more = 0, text.peek() != "]"
    while more:
        number += 1
        place = f"{text.name}, {where}item {number}"
        written, value = text.value(place)
        yield _Item(value, place, None if written.isascii() else _not_utf8(written, place))
        more = text.take_comma("]", f"after item {number}")
    text.expect("]")


def _arrays(text: "_JsonStream", *, named: bool = False) -> Iterator[tuple[str, str, Iterator[_Item]]]:
    """Yield the key of each array in an object, the first character of its first item, and its items; items that the caller does not
    read are skipped. `named`: the places of the items include the key.
    """
    text.expect("{")
    more = text.peek() != "}"
    while more:
        _, name = text.value(text.name)
        text.expect(":", f"after {name!r}")
        if text.peek() == "[":
            text.expect("[")
            items = _items(text, f"{name} " if named else "")
            yield str(name), text.peek(), items
            deque(items, maxlen=0)
        else:
            text.value(text.name)
        more = text.take_comma("}", f"after the value of {name!r}")
    text.expect("}")


def _rows(items: Iterator[_Item], columns: Columns, header: Sequence[str], *, numbered: bool) -> Records:
    """Yield the records of items that are objects, or arrays of values in the order of the header. If the header is empty, column names are
    detected; if none are detected, the first array is the header.
    """
    first = list(islice(items, _HEADER_ROWS))
    if not first or not isinstance(first[0].value, list):
        header = ()
    elif not header:
        header = detect_header(_texts(first), columns, numbered=numbered)
        if not header:
            header, place, first = _texts(first[:1])[0], first[0].place, first[1:]
            columns.check_unique(header, place)
    for item in chain(first, items):
        if item.bad or header:
            yield item.bad or _array_row(item, header)
        else:
            yield from _object_rows(item, columns)


def _object_rows(item: _Item, columns: Columns) -> Records:
    """Yield the record of an object, or several records if it is nested (`questions_of`)."""
    if isinstance(item.value, dict):
        yield from questions_of(Record(item.value, item.place), columns)
        return
    kind = type(item.value).__name__
    yield BadRow("not a JSON object", f'{item.place}: expected a JSON object, found {kind}; write {{"column": ...}} for each')


def _array_row(item: _Item, header: Sequence[str]) -> Record | BadRow:
    if not isinstance(item.value, list):
        kind = type(item.value).__name__
        return BadRow("not a JSON array", f"{item.place}: expected an array of {len(header)} values, found {kind}; repair the row")
    if len(item.value) != len(header):
        reason = f"{len(item.value)} values in a row of {len(header)} columns"
        return BadRow("wrong number of fields", f"{item.place}: {reason}; repair the row")
    return Record(dict(zip(header, item.value, strict=True)), item.place)


def _members(text: "_JsonStream", columns: Columns, header: Sequence[str], keys: Sequence[str], *, numbered: bool) -> Records:
    """Yield the rows of the arrays under `keys` in an object, or, if `keys` is empty, of its only array of objects."""
    arrays: list[str] = []
    for name, kind, items in _arrays(text, named=bool(keys)):
        if name in keys if keys else kind == "{":
            arrays.append(name)
            if len(arrays) > 1 and not keys:
                raise DataError(
                    f"{text.name}: holds several arrays of objects ({', '.join(arrays)}); name the one with the rows: field: NAME"
                )
            yield from _rows(items, columns, header, numbered=numbered)
    if not arrays:
        wanted = f"no array under {', '.join(map(repr, keys))}" if keys else "one object, without an array of objects in it"
        raise DataError(f"{text.name}: {wanted}; {_LINES}")


class _JsonStream:
    """A parser of a JSON file that is read in chunks. `text[at:]` was read from the file and is not yet parsed."""

    def __init__(self, file: IO[bytes], name: str):
        self.file, self.name = file, name
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")  # `_not_utf8` finds invalid bytes
        self.json = json.JSONDecoder()
        self.text, self.at, self.dropped = "", 0, 0  # `dropped`: the number of the file's characters before `text`
        chunk = file.read(_CHUNK)
        if bad := encoding_error(chunk, name):
            raise DataError(bad.message)
        self.text = self.decoder.decode(chunk.removeprefix(BOM))

    def read_more(self) -> bool:
        """Read a chunk as long as the unparsed text, or longer, so that a long item takes linear time; return False at the file's end."""
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.dropped += self.at
        self.text, self.at = self.text[self.at :] + self.decoder.decode(chunk, final=not chunk), 0
        return bool(chunk)

    def peek(self) -> str:
        """Skip white space and return the next character without consuming it; an empty text at the file's end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.read_more():
                return ""

    def expect(self, sign: str, where: str = "") -> None:
        """Consume the character `sign`. Raise DataError if the next character is not `sign`."""
        character = self.peek()
        if character != sign:
            what = f"{character!r}" if character else f"the end of the file{_CUT}"
            raise self.broken(f"expected {sign!r}{f' {where}' if where else ''}, found {what}")
        self.at += 1

    def take_comma(self, end: str, where: str) -> bool:
        """Consume a comma and return True; if `end` follows instead, return False. Raise DataError for any other character."""
        if self.peek() == end:
            return False
        self.expect(",", where)
        return True

    def value(self, place: str) -> tuple[str, Any]:
        """Parse the next JSON value; return its text and its value. Raise DataError if it is not JSON."""
        self.peek()
        ended = False
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if ended:
                    is_cut = error.msg.startswith("Unterminated") or error.pos + (5 if "escape" in error.msg else 1) >= len(self.text)
                    cut = _CUT if is_cut else ""
                    self.at = min(error.pos, len(self.text))
                    raise self.broken(f"not JSON ({error.msg}){cut}", place=place) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(f"not JSON ({_reason(error)})", place=place) from error
            else:
                if ended or end + 2 < len(self.text):  # else a number may continue in the next chunk: 1 as 1.5, or 1.5 as 1.5e-3
                    written, self.at = self.text[self.at : end], end
                    return written, value
            ended = not self.read_more()

    def broken(self, what: str, remedy: str = "repair the file, or write it again", place: str = "") -> DataError:
        """Return the error for a file that cannot be parsed further."""
        return DataError(f"{place or self.name}: {what}, at character {self.dropped + self.at + 1} of the file; {remedy}")


def _not_utf8(written: str, place: str) -> BadRow | None:
    try:
        written.encode()
    except UnicodeEncodeError as error:
        byte = ord(written[error.start]) & 0xFF
        return BadRow("not UTF-8", f"{place}: holds a byte (0x{byte:02x}) that is not UTF-8; convert the file (iconv -f latin1 -t utf-8)")
    return None


def _reason(error: BaseException) -> Any:
    return "too deeply nested" if isinstance(error, RecursionError) else getattr(error, "msg", error)

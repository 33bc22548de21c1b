"""Recognition of a file by its first lines: CoNLL whatever its name, the delimiter of a table, and whether it has a header.

Only clear evidence counts: otherwise a text is a text, a comma separates, and the first row is the header.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

from tfkit.data.columns.later_names import normalized
from tfkit.data.columns.record_columns import Columns
from tfkit.data.formats.file_content import Content, decode, pieces
from tfkit.recipe.schema.objective_facts import SECTIONS

_LINES = 200  # that are looked at
_DELIMITERS = ",;\t|"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_IOB = re.compile(r"O|[BIESLU]-\S+")
_MOST_TAGS, _FEWEST_LINES = 60, 20  # of a file of words and tags other than IOB's
_LONG, _WORDS = 60, 5  # more characters or words than the name of a column has
_FEW = 5  # smallest mean number of rows of each value of a column of labels


class Table(NamedTuple):
    """The layout of a table: its delimiter, and the names of its columns; empty: they are in its first row."""

    delimiter: str
    header: tuple[str, ...] = ()

    def describe(self) -> str:
        """Describe what differs from a csv file with a header; empty if nothing does."""
        about = [f"separated by {_NAMES[self.delimiter]}"] if self.delimiter != "," else []
        about += [f"without a header, read as {', '.join(self.header)}"] if self.header else []
        return ", ".join(about)


def conll_of(content: Content) -> str | None:
    """Return conll or conllu if the lines of a text are words with tags, blank lines between sentences; else None."""
    lines = [text.rstrip("\r\n") for text in _first_lines(content)]
    words = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    rows = [re.split(r"\t| +", line.strip(" ")) if "\t" not in line else line.split("\t") for line in words if not line.startswith("# ")]
    widths = {len(row) for row in rows}
    if len(rows) < 3 or len(widths) > 1 or "" not in [line.strip() for line in lines]:
        return None
    width = widths.pop()
    if width == 10 and all(re.fullmatch(r"[0-9]+([-.][0-9]+)?", row[0]) for row in rows):
        return "conllu"
    tags = [row[-1] for row in rows]
    if width < 2 or not all(row[0] for row in rows):
        return None
    if all(_IOB.fullmatch(tag) for tag in tags):
        return "conll"
    few = len(rows) >= _FEWEST_LINES and len({*tags}) <= min(_MOST_TAGS, len(rows) // _FEW)
    return "conll" if few and all("\t" in line for line in words) and not any(" " in row[0] for row in rows) else None


def table_of(content: Content, columns: Columns, suffix_delimiter: str, *, numbered: bool = False) -> Table:
    """Return the layout of a table; `suffix_delimiter` is that of its name, `numbered`: columns without names have numbers alone."""
    lines = [*_first_lines(content)]
    delimiter = _delimiter(lines, suffix_delimiter)
    rows = _rows(lines, delimiter)
    return Table(delimiter, header_of(rows, columns, numbered=numbered))


def header_of(rows: Sequence[Sequence[str]], columns: Columns, *, numbered: bool = False) -> tuple[str, ...]:
    """Return the names of the columns of rows; empty if the first row holds them."""
    if len(rows) < 2 or _has_header(rows, columns):
        return ()
    return tuple(map(str, range(min(map(len, rows))))) if numbered else _header(rows)


def _first_lines(content: Content) -> Iterator[str]:
    """Yield the first lines; none of a file that is not UTF-8, whose error is found where it is read."""
    for piece in islice(pieces(content), _LINES):
        text = decode(piece)
        if not isinstance(text, str):
            return
        yield text


def _delimiter(lines: Sequence[str], own: str) -> str:
    """Return the delimiter: the file's own if it fits, else the one that gives all rows the same fields, the most of them."""
    widths = {}
    for one in _DELIMITERS:
        found = {len(row) for row in _rows(lines, one)}
        widths[one] = found.pop() if len(found) == 1 else 1
    if widths[own] > 1:
        return own
    best = max(_DELIMITERS, key=lambda one: widths[one])
    return best if widths[best] > 1 else own


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the records of the first lines; the last, which may be cut, only if it is the only one."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return []
    return rows[:-1] if len(lines) == _LINES and len(rows) > 1 else rows


def _has_header(rows: Sequence[Sequence[str]], columns: Columns) -> bool:
    """Whether the first row names the columns: it has a named or known one that is no value below, or nothing shows that it is a row."""
    first, *rest = rows
    known = _known()
    as_below = {cell for place, cell in enumerate(first) if _repeats(cell, [row[place] for row in rest if place < len(row)])}
    words = [cell for cell in first if not cell.strip().isdecimal()]
    if [cell.strip() for cell in first] == [str(place) for place in range(len(first))]:  # as pandas names columns without names
        return True
    if any(normalized(cell) in known and cell not in as_below for cell in words) or (not columns.beyond_roles and columns.wanted(words)):
        return True
    if len({*first}) < len(first):
        return False
    return not as_below and not any(len(cell) > _LONG or len(cell.split()) > _WORDS or cell.endswith((". ", ".", "!")) for cell in first)


def _repeats(cell: str, below: Sequence[str]) -> bool:
    """Whether a cell is a label as those below it: one of few values."""
    return cell in below and (len({cell, *below}) * _FEW <= 1 + len(below) or len({*below}) == 1)


def _header(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Name the columns: by number, but for one or two of texts, and one of labels beside them."""
    width = min(map(len, rows))
    held = [[row[place].strip() for row in rows] for place in range(width)]
    labels = [place for place, values in enumerate(held) if 2 <= len({*values}) <= max(2, len(values) // _FEW)]
    texts = [place for place, values in enumerate(held) if place not in labels and _are_texts(values)]
    names = [str(place) for place in range(width)]
    if len(labels) == 1 and texts:
        names[labels[0]] = "label"
        for place, name in zip(texts, ("text", "pair") if len(texts) == 2 else ("text",), strict=False):
            names[place] = name
    elif not labels and len(texts) == 2:
        for place, name in zip(texts, ("source", "target"), strict=True):
            names[place] = name
    return tuple(names)


def _are_texts(values: Sequence[str]) -> bool:
    """Whether a column holds texts: mostly different, of several words."""
    return 2 * len({*values}) > len(values) and 2 * sum(" " in value for value in values) > len(values)


@cache
def _known() -> frozenset[str]:
    """Return the names of columns that some objective recognises, and frequent ones that none reads."""
    names = [name for section in SECTIONS.values() for role in section.roles for name in role.columns + role.later]
    return frozenset(map(normalized, [*names, "id", "idx", "index", "guid", "title", "date", "user", "name", "url", "lang", "language"]))

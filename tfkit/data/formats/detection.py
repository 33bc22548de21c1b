"""Detection of layouts from a file's first lines: whether a text is CoNLL, fastText's format or a table, whether a .json file is JSON
lines, and the delimiter and the header of a table.

If the lines show no layout clearly, a text is plain text, the suffix decides the delimiter, and the first row is the header.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import NamedTuple

from tfkit.data.columns.record_columns import Columns
from tfkit.data.formats.conll import is_conll_header, split_fields
from tfkit.data.formats.file_content import BOM, Content, decode, opened, raw_lines
from tfkit.data.formats.tables import allow_long_fields
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.roles import normalized

LABEL_MARK = "__label__"  # before each label of a line, in fastText's files
_LINES = 200  # the largest number of first lines that are examined
_MAX_JSON_LINE = 1 << 20  # the most bytes that are read of a line; a JSON file with a longer first line is taken for a single JSON value
_DELIMITERS = ",;\t|"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_IOB = re.compile(r"O|[BIESLU]-\S+")
_LICENCE = re.compile(r"CC[-0 ]|https?://|©", re.IGNORECASE)  # the beginning of a note on a row's licence or origin
_SCORE = re.compile(r"-?[0-9]*\.[0-9]+")  # a score must have a decimal point, since whole numbers may be row numbers
_MAX_TAGS, _MIN_TOKENS = 60, 20  # the most distinct tags, and the fewest tokens, of a CoNLL text whose tags are not in the IOB scheme
_MIN_ROWS = 3  # smallest number of lines in a text that is taken for a table, or for fastText's format
_MAX_NAME, _MAX_NAME_WORDS = 60, 5  # largest number of characters and of words in the name of a column
_ROWS_PER_LABEL = 5  # smallest mean number of rows for each value in a column of labels


class Table(NamedTuple):
    """The layout of a table: its delimiter, and its column names if it has no header line."""

    delimiter: str
    header: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return a description of how the layout differs from that of a csv file with a header; empty if it does not."""
        about = [f"separated by {_NAMES[self.delimiter]}"] if self.delimiter != "," else []
        about += [f"without a header, read as {', '.join(self.header)}"] if self.header else []
        return ", ".join(about)


def detect_json_lines(content: Content) -> bool:
    """Whether a JSON file is JSON lines: of the lines that are not blank, the first is an object, and the second begins an object."""
    with opened(content) as file, suppress(ValueError, RecursionError):  # the content is not JSON, or not UTF-8
        lines = (file.readline(_MAX_JSON_LINE).removeprefix(BOM).strip() for _ in range(_LINES))
        first, second, *_ = [*islice(filter(None, lines), 2), b"", b""]
        return second.startswith(b"{") and first.endswith(b"}") and isinstance(json.loads(first), dict)
    return False


def detect_conll(content: Content) -> str | None:
    """Return "conll" or "conllu" if the first lines are words with their tags, one a line, and blank lines between sentences; else None."""
    lines = [text.rstrip("\r\n") for text in _first_lines(content)]
    words = [line for line in lines if line.strip() and not line.startswith("-DOCSTART-")]
    rows = [split_fields(line) for line in words if not line.startswith("# ")]
    rows = rows[bool(rows) and is_conll_header(rows[0]) :]
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
    repeat = len(rows) >= _MIN_TOKENS and len({*tags}) <= min(_MAX_TAGS, len(rows) // _ROWS_PER_LABEL)
    return "conll" if repeat and all("\t" in line for line in words) and not any(" " in row[0] for row in rows) else None


def detect_fasttext(content: Content) -> bool:
    """Whether a text has at least 3 lines, and each of its first lines begins with a label in fastText's notation (`__label__`)."""
    lines = [line for line in _first_lines(content) if line.strip()]
    return len(lines) >= _MIN_ROWS and all(line.startswith(LABEL_MARK) for line in lines)


def detect_tabbed(content: Content) -> bool:
    """Whether a text is a table: it has at least 3 lines, and its first lines have the same number of tabs, not 0, and none is blank."""
    lines = [*_first_lines(content)]
    return len(lines) >= _MIN_ROWS and len({line.count("\t") for line in lines}) == 1 and all(map(str.strip, lines)) and "\t" in lines[0]


def detect_table(content: Content, columns: Columns, default: str, *, numbered: bool = False) -> Table:
    """Return the layout of a table. `default`: the usual delimiter of the suffix; `numbered`: call columns without names 0, 1 ..."""
    allow_long_fields()
    lines = [*_first_lines(content)]
    delimiter = _detect_delimiter(lines, default)
    rows = _rows(lines, delimiter)
    return Table(delimiter, detect_header(rows, columns, numbered=numbered))


def detect_header(rows: Sequence[Sequence[str]], columns: Columns, *, numbered: bool = False) -> tuple[str, ...]:
    """Return column names (`numbered`: 0, 1 ...) for a table without a header; empty if the first row is a header or the only row."""
    choices = _name_choices(rows)
    if len(rows) < 2 or not (choices or not _has_header(rows, columns)):
        return ()
    return tuple(map(str, range(min(map(len, rows))))) if numbered else choices or _name_columns(rows)


def _first_lines(content: Content) -> Iterator[str]:
    """Yield the first lines, but stop before a line that is not UTF-8, which becomes a BadRow when the file is read."""
    for line in islice(raw_lines(content), _LINES):
        text = decode(line)
        if not isinstance(text, str):
            return
        yield text


def _detect_delimiter(lines: Sequence[str], default: str) -> str:
    """Return the default delimiter if it gives all rows the same number of fields, at least two; else, of the delimiters that do so, the
    one that gives the most fields; else the default.
    """
    widths = {}
    for delimiter in _DELIMITERS:
        lengths = {len(row) for row in _rows(lines, delimiter)}
        widths[delimiter] = lengths.pop() if len(lengths) == 1 else 1
    if widths[default] > 1:
        return default
    best = max(_DELIMITERS, key=lambda delimiter: widths[delimiter])
    return best if widths[best] > 1 else default


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the records in a file's first lines. If the file may go on, the last of several records is left out: it may be incomplete."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return []
    return rows[:-1] if len(lines) == _LINES and len(rows) > 1 else rows


def _has_header(rows: Sequence[Sequence[str]], columns: Columns) -> bool:
    """Whether the first row is a header: its cells are 0, 1, 2 ...; a cell names a column that is read, or is a well-known column name and
    no label (`_is_label`); or no cell is a label or looks like a sentence, and no two cells are equal.

    Empty cells, as after a delimiter at the end of each line, are neither names nor labels.
    """
    first, *rest = rows
    known = _known_names()
    named = [(index, cell) for index, cell in enumerate(first) if cell.strip()]
    labels = {cell for index, cell in named if _is_label(cell, [row[index] for row in rest if index < len(row)])}
    words = [cell for cell in first if not cell.strip().isdecimal()]
    if [cell.strip() for cell in first] == [str(index) for index in range(len(first))]:  # pandas calls unnamed columns 0, 1, 2 ...
        return True
    if any(normalized(cell) in known and cell not in labels for cell in words) or (not columns.beyond_roles and columns.select_read(words)):
        return True
    if not named or len({cell for _, cell in named}) < len(named):
        return False
    sentences = [cell for cell in first if len(cell) > _MAX_NAME or len(cell.split()) > _MAX_NAME_WORDS or cell.endswith((". ", ".", "!"))]
    return not labels and not sentences


def _is_label(cell: str, below: Sequence[str]) -> bool:
    """Whether a cell looks like a label: it equals one of the cells below it, and these cells have few distinct values."""
    return cell in below and (len({cell, *below}) * _ROWS_PER_LABEL <= 1 + len(below) or len({*below}) == 1)


def _name_choices(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return column names if each row is a question, its answers and the letter of the right one, as in MMLU's files; else ()."""
    letters = "ABCDEFGHIJ"[: max(0, len(rows[0]) - 2)] if rows else ""
    are_letters = len(letters) > 1 and all(len(row) == len(rows[0]) and len(row[-1]) == 1 and row[-1] in letters for row in rows)
    return ("question", *letters, "answer") if are_letters and len({row[-1] for row in rows}) > 1 else ()


def _name_columns(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return a name for each column: its index, from 0, unless its role is clear. If there is one column of labels, or else of scores, it
    is called `label`, and the first column of texts `text` (of two, the second is `pair`). Without labels, two columns of texts are called
    `source` and `target`.
    """
    width = min(map(len, rows))
    values = [[row[index].strip() for row in rows] for index in range(width)]
    labels = [index for index, cells in enumerate(values) if 2 <= len({*cells}) <= max(2, len(cells) // _ROWS_PER_LABEL)]
    texts = [index for index, cells in enumerate(values) if index not in labels and _are_texts(cells)]
    notes = [index for index, cells in enumerate(values) if all(map(_LICENCE.match, cells))]
    if width == 3 and len(notes) == 1:  # Tatoeba: two sentences, which may be single words, and a note on their licence and authors
        texts, labels = [index for index in range(width) if index not in notes], []
    labels = labels or [index for index, cells in enumerate(values) if all(map(_SCORE.fullmatch, cells))]
    names = [str(index) for index in range(width)]
    if len(labels) == 1 and texts:
        names[labels[0]] = "label"
        for index, name in zip(texts, ("text", "pair") if len(texts) == 2 else ("text",), strict=False):
            names[index] = name
    elif not labels and len(texts) == 2:
        for index, name in zip(texts, ("source", "target"), strict=True):
            names[index] = name
    return tuple(names)


def _are_texts(values: Sequence[str]) -> bool:
    """Whether the values of a column are texts: most are distinct, and most have several words."""
    return 2 * len({*values}) > len(values) and 2 * sum(" " in value for value in values) > len(values)


@cache
def _known_names() -> frozenset[str]:
    """Return the column names that any objective recognises, and common names that no objective reads."""
    names = [name for section in SECTIONS.values() for role in section.roles for name in role.columns + role.later]
    return frozenset(map(normalized, [*names, "id", "idx", "index", "guid", "title", "date", "user", "name", "url", "lang", "language"]))

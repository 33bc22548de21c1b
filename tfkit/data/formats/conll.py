"""Readers of CoNLL and of CoNLL-U (Universal Dependencies): each line has a token with its tags in columns, and a blank line ends a
sentence. If each row of a table has one token, `sentences_of` groups the rows into sentences.

https://universaldependencies.org/format.html
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, dropwhile, groupby, islice
from typing import NamedTuple

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.file_content import Content, decode, row_lines
from tfkit.recipe.schema.objective_facts import SECTIONS
from tfkit.recipe.schema.roles import normalized

_DOCUMENT_START = "-DOCSTART-"  # the beginning of the line before each document
_CONLLU_COLUMNS = ("tokens", "lemmas", "upos", "xpos", "feats", "heads", "deprels", "deps", "misc")
_SEARCHED_ROWS = 200  # the number of a table's first rows that are searched for a column of words and for blank rows
_WORDS, _SENTENCES = (
    ("word", "token", "tokens", "words"),
    ("sentence_#", "sentence_id", "sent_id", "sentence_idx", "sentence_number", "sentence"),
)
_WORD, _NO_WORD = re.compile(r"[0-9]+"), re.compile(r"[0-9]+(-|\.)[0-9]+")  # no word: a multiword token (1-2), or an empty node (8.1)


class _Line(NamedTuple):
    text: str
    place: str


class _Token(NamedTuple):
    fields: list[str]
    place: str


def read_conll(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Yield each sentence as a record of its first and last columns, called tokens and tags; with a `header`, as a record of all columns,
    under the header's names. With a `header`, or if a role reads words and none reads tags, one column suffices.

    If the first line is a header, such as `word ner`, a record also has all columns, under the header's names. Lines at the beginning of a
    sentence that begin with # are comments unless they have as many columns as the words. A record's place is the line of its first word.
    """
    forms = {role.form for role in columns.roles}
    width, fewest = len(header), 1 if header or ("texts" in forms and "labels" not in forms) else 2
    found: list[str] = []  # the names in the file's own header
    if header:
        columns.check(header, content.name)
    for lines in _sentences(content):
        if isinstance(lines, BadRow):
            yield lines
            continue
        rows = [_Token(split_fields(line.text), line.place) for line in lines]
        is_first, width = not width, width or len(rows[-1][0])
        rows = _without_comments(rows, width)
        if is_first and rows and is_conll_header(rows[0].fields):
            found = rows.pop(0).fields
        if not rows:
            continue
        if bad := next(filter(None, (_token_error(fields, width, fewest, bool(header), place) for fields, place in rows)), None):
            yield bad
            continue
        values = [list(column) for column in zip(*(fields for fields, _ in rows), strict=True)]
        read = dict(zip(header or found, values, strict=False))
        if not header:
            read |= dict(zip(("tokens", "tags")[:width], (values[0], values[-1]), strict=False))
        yield Record(read, rows[0].place)


def _without_comments(rows: list[_Token], width: int) -> list[_Token]:
    """Return the lines of a sentence without the comments at its beginning, which start with # and do not have `width` columns."""
    return [*dropwhile(lambda row: row.fields[0].startswith("#") and len(row.fields) != width, rows)]


def is_conll_header(fields: list[str]) -> bool:
    """Whether the fields of a file's first line are column names: the first field names the words, the last one the tags."""
    tags = next(role for role in SECTIONS["tagging"].roles if role.name == "tags")
    return normalized(fields[0]) in _WORDS and normalized(fields[-1]) in ("label", *tags.columns, *tags.later)


def split_fields(line: str) -> list[str]:
    """Return the columns of a line, which are separated by tabs if it has a tab, else by spaces."""
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _token_error(fields: list[str], width: int, fewest: int, has_header: bool, place: str) -> BadRow | None:
    """Return the error in a token's line: not `width` columns, no tag (`width` below `fewest`), or an empty token or tag; else None."""
    if len(fields) != width:
        where = "header" if has_header else "file's first sentence"
        reason = f"{len(fields)} columns, but the {where} has {width}"
        return BadRow("wrong number of columns", f"{place}: {reason}; separate token and tags by a tab or by spaces, repair the line")
    if width < fewest:
        return BadRow("no tag", f"{place}: a token without a tag; write both, separated by a tab or by spaces")
    if not (fields[0] and fields[-1]):
        return BadRow("an empty column", f"{place}: an empty {'tag' if fields[0] else 'token'}; repair the line, or remove it")
    return None


def read_conllu(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Yield each sentence as a record: lists of tokens, lemmas, upos, xpos and so on, and a column for each comment like # sent_id = 1.

    Multiword tokens (1-2) and empty nodes (8.1) are left out.
    """
    for lines in _sentences(content):
        if isinstance(lines, BadRow):
            yield lines
            continue
        comments = (line.text.removeprefix("#").partition("=") for line in lines if line.text.startswith("#"))
        columns_of_comments = {name.strip(): value.strip() for name, equals, value in comments if equals}
        words: list[list[str]] = []
        bad: BadRow | None = None
        for line in lines:
            if not line.text.startswith("#"):
                fields = line.text.split("\t")
                bad = bad or _word_error(fields, len(words) + 1, line.place)
                words += [fields] * bool(_WORD.fullmatch(fields[0]))
        if bad:
            yield bad
        elif words:
            values = [list(column) for column in zip(*words, strict=True)]
            yield Record({**columns_of_comments, **dict(zip(_CONLLU_COLUMNS, values[1:], strict=True))}, lines[0].place)


def sentences_of(records: Records, columns: Columns) -> Records:
    """Group the rows of a table into sentences if a role reads words and each row has one word: one column is called `word`, `token` or
    similar, most of its cells are single words, and another column numbers or names the sentences, or blank rows separate them. Each column
    becomes a list; the list of words is also called `tokens`, and the last column's list `tags`. Other tables are returned unchanged.
    """
    first = [*islice(records, _SEARCHED_ROWS)]
    rows = chain(first, records)
    found = [record.values for record in first if isinstance(record, Record)]
    known = {normalized(name): name for values in found[:1] for name in values}
    word, number = (next((known[name] for name in names if name in known), None) for names in (_WORDS, _SENTENCES))
    reads_words = columns.beyond_roles or any(role.form == "texts" for role in columns.roles)
    has_blank = any(not any(values.values()) for values in found)
    if word is None or not reads_words or (number is None and not has_blank):
        return rows
    if 2 * sum(len(values[word].split()) > 1 for values in found) > len(found):
        return rows
    return (_sentence([*group], word) for sentence, group in groupby(rows, _Sentences(number)) if sentence is not None)


class _Sentences:
    """A key of groupby: a row's sentence. `number`: the column that numbers or names sentences; None: only blank rows end them."""

    def __init__(self, number: str | None):
        self.number, self.current = number, ""

    def __call__(self, record: Record | BadRow) -> str | None:
        """Return the number, or the name, of the row's sentence; None for a blank row, which ends a sentence."""
        if isinstance(record, BadRow):
            return self.current
        if not any(record.values.values()):
            return None
        self.current = (self.number and record.values[self.number]) or self.current
        return self.current


def _sentence(rows: Sequence[Record | BadRow], word: str) -> Record | BadRow:
    """Return one record for the sentence whose words are in these rows, or the first bad row among them. `word`: the column of words."""
    words = [row for row in rows if isinstance(row, Record)]
    if len(words) < len(rows):
        return next(row for row in rows if isinstance(row, BadRow))
    values = {name: [row.values[name] for row in words] for name in words[0].values}
    return Record({**values, "tokens": values[word], "tags": [*values.values()][-1]}, words[0].place)


def _word_error(fields: list[str], number: int, place: str) -> BadRow | None:
    """Return the error in a CoNLL-U line, which must have 10 columns, and word `number` of its sentence or no word (`_NO_WORD`)."""
    if len(fields) != len(_CONLLU_COLUMNS) + 1:
        reason = f"{len(fields)} columns; CoNLL-U has 10, separated by tabs"
        return BadRow("wrong number of columns", f"{place}: {reason}: repair the line, or set format: conll if it is another kind")
    if not all(fields):
        return BadRow("an empty column", f"{place}: column {fields.index('') + 1} is empty; write _ for nothing")
    if not _NO_WORD.fullmatch(fields[0]) and fields[0] != str(number):
        return BadRow("not the next word", f"{place}: word {fields[0]!r} is in the place of word {number}; repair the sentence")
    return None


def _sentences(content: Content) -> Iterator[list[_Line] | BadRow]:
    """Yield the lines of each sentence, or a BadRow for a sentence with a line that is not UTF-8."""
    lines: list[_Line] = []
    bad: BadRow | None = None
    for line in row_lines(content):
        text = decode(line)
        if isinstance(text, BadRow):
            bad = bad or text
        elif text.strip(" \t\r\n") and not text.startswith(_DOCUMENT_START):
            lines.append(_Line(text.rstrip("\r\n"), line.place))
        elif sentence := bad or lines:
            yield sentence
            lines, bad = [], None
    if sentence := bad or lines:
        yield sentence

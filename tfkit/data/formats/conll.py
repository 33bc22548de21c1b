"""Sentences with a token a line and its tags in columns, a blank line between them: CoNLL, and CoNLL-U of Universal Dependencies.

https://universaldependencies.org/format.html
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.file_content import Content, decode, pieces

_BETWEEN = "-DOCSTART-"  # in the line between two documents
_UNIVERSAL = ("tokens", "lemmas", "upos", "xpos", "feats", "heads", "deprels", "deps", "misc")
_WORD, _NO_WORD = re.compile(r"[0-9]+"), re.compile(r"[0-9]+(-|\.)[0-9]+")  # 1-2: two words together, 8.1: an omitted word


class _Line(NamedTuple):
    text: str
    place: str


def read_conll(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read a sentence as {tokens, tags}: the first column and the last. With a header, each column has its name. Where words are read
    without tags, they may be the only column.

    Columns are separated by a tab, if the line has one, else by spaces. Places are those of a sentence's first line.
    """
    forms = {role.form for role in columns.roles}
    width, fewest = len(header), 1 if header or ("texts" in forms and "labels" not in forms) else 2
    if header:
        columns.check(header, content.name)
    for lines in _sentences(content):
        if isinstance(lines, BadRow):
            yield lines
            continue
        rows = [(_fields(line.text), line.place) for line in lines]
        width = width or len(rows[0][0])
        if bad := next(filter(None, (_unfit(fields, width, fewest, bool(header), place) for fields, place in rows)), None):
            yield bad
            continue
        found = [list(column) for column in zip(*(fields for fields, _ in rows), strict=True)]
        names = header or ("tokens", "tags")[: len(found)]
        yield Record(dict(zip(names, found if header else [found[0], found[-1]], strict=False)), rows[0][1])


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _unfit(fields: list[str], width: int, fewest: int, named: bool, place: str) -> BadRow | None:
    """Return the error in the columns of a token, of which there are `width`, and at least `fewest`."""
    if len(fields) != width:
        where = "header" if named else "file's first sentence"
        reason = f"{len(fields)} columns, but the {where} has {width}"
        return BadRow("wrong number of columns", f"{place}: {reason}; separate token and tags by a tab or by spaces, repair the line")
    if width < fewest:
        return BadRow("no tag", f"{place}: a token without a tag; write both, separated by a tab or by spaces")
    if not (fields[0] and fields[-1]):
        return BadRow("an empty column", f"{place}: an empty {'tag' if fields[0] else 'token'}; repair the line, or remove it")
    return None


def read_conllu(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read a sentence as {tokens, lemmas, upos, xpos, feats, heads, deprels, deps, misc}, and its comments (text, sent_id).

    Ranges of several words (1-2) and omitted words (8.1) are not tokens.
    """
    for lines in _sentences(content):
        if isinstance(lines, BadRow):
            yield lines
            continue
        comments = dict(_comment(line.text) for line in lines if _is_comment(line.text) and "=" in line.text)
        words: list[list[str]] = []
        bad: BadRow | None = None
        for line in lines:
            if not _is_comment(line.text):
                fields = line.text.split("\t")
                bad = bad or _unfit_word(fields, len(words) + 1, line.place)
                words += [fields] * bool(_WORD.fullmatch(fields[0]))
        if bad:
            yield bad
        elif words:
            columns_of = [list(column) for column in zip(*words, strict=True)]
            yield Record({**comments, **dict(zip(_UNIVERSAL, columns_of[1:], strict=True))}, lines[0].place)


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _comment(line: str) -> tuple[str, str]:
    """Split `# text = Hello.` into its two sides."""
    name, _, value = line.removeprefix("#").partition("=")
    return name.strip(), value.strip()


def _unfit_word(fields: list[str], number: int, place: str) -> BadRow | None:
    """Return the error in a word that should be number `number` of its sentence."""
    if len(fields) != len(_UNIVERSAL) + 1:
        reason = f"{len(fields)} columns; CoNLL-U has 10, separated by tabs"
        return BadRow("wrong number of columns", f"{place}: {reason}: repair the line, or set format: conll if it is another kind")
    if not all(fields):
        return BadRow("an empty column", f"{place}: column {fields.index('') + 1} is empty; write _ for nothing")
    if not _NO_WORD.fullmatch(fields[0]) and fields[0] != str(number):
        return BadRow("not the next word", f"{place}: word {fields[0]!r} is in the place of word {number}; repair the sentence")
    return None


def _sentences(content: Content) -> Iterator[list[_Line] | BadRow]:
    """Yield the lines of each sentence; a sentence with a line that is not UTF-8 is bad."""
    lines: list[_Line] = []
    bad: BadRow | None = None
    for piece in pieces(content):
        text = decode(piece)
        if isinstance(text, BadRow):
            bad = bad or text
        elif text.strip(" \t\r\n") and not text.startswith(_BETWEEN):
            lines.append(_Line(text.rstrip("\r\n"), piece.place))
        elif found := bad or lines:
            yield found
            lines, bad = [], None
    if found := bad or lines:
        yield found

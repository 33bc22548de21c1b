"""Lines of code as tokens, and the role of each token, from `tokenize` and `ast`.

    def      move(     self      ,        steps     =        2      )        :
    keyword  function operator parameter operator parameter operator number operator operator

Roles of names: function and class (at the definition), parameter, argument (the name in `f(name=1)`), call (the last name of the
callee), attribute (after a dot), import (in an import statement), keyword, and variable for all others. Roles of other tokens:
string, number, operator. Comments, docstrings, overlong lines, and lines with a long or multi-line string are excluded.
"""

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

_MAX_TOKENS = 48  # the most tokens in a row of several lines
_MAX_LINE_TOKENS = 96  # the most tokens in a row of a single line; a longer line is left out
_MIN_TOKENS = 4  # the fewest tokens in a row; a shorter row is left out
_MAX_STRING = 60  # the most characters in a token; a line with a longer token is left out
_KEPT = {tokenize.NAME: "variable", tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}
# Since Python 3.12 an f-string is several tokens; Python 3.14 added t-strings.
_PARTS_OF_STRINGS = [getattr(tokenize, name) for name in dir(tokenize) if name.startswith(("FSTRING_", "TSTRING_"))]
_KEPT |= dict.fromkeys(_PARTS_OF_STRINGS, "string")

Position = tuple[int, int]  # line number, from 1, and column, from 0, counted in UTF-8 bytes


class _Line(NamedTuple):
    """A logical line: the number of its first line in the file, its tokens, and the role of each token."""

    number: int
    tokens: list[str]
    tags: list[str]


def token_roles(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line number, and the columns `tokens` and `tags` (roles), of each row. A row is one line, or several lines with at
    most `_MAX_TOKENS` tokens in all. A line that begins with def, class, async or @ begins a row, unless a decorator precedes the line.
    """
    roles = dict(_roles(tree, text.split("\n")))
    run: list[_Line] = []
    for line in _lines(text, roles):
        begins = line.tokens[0] in ("def", "class", "async", "@") and not (run and run[-1].tokens[0] == "@")
        if run and (begins or sum(len(previous.tokens) for previous in run) + len(line.tokens) > _MAX_TOKENS):
            yield from _row(run)
            run = []
        run.append(line)
    yield from _row(run)


def _row(run: list[_Line]) -> Iterator[tuple[int, dict[str, Any]]]:
    tokens = [token for line in run for token in line.tokens]
    if len(tokens) >= _MIN_TOKENS:
        yield run[0].number, {"tokens": tokens, "tags": [tag for line in run for tag in line.tags]}


def _lines(text: str, roles: dict[Position, str]) -> Iterator[_Line]:
    """Yield the logical lines except docstrings, overlong lines, and lines with a long or multi-line string."""
    number, tokens, tags = 0, list[str](), list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            has_long = any(len(token) > _MAX_STRING or "\n" in token for token in tokens)
            if tags != ["string"] and 0 < len(tokens) <= _MAX_LINE_TOKENS and not has_long:
                yield _Line(number, tokens, tags)
            tokens, tags = [], []
        elif token.type in _KEPT and token.string.strip():
            row, column = token.start
            number = number if tokens else row
            if token.type == tokenize.NAME:
                column = column if token.line.isascii() else len(token.line[:column].encode())
                tags.append(_role_of_name(token.string, roles.get((row, column)), tokens[-1:]))
            else:
                tags.append(_KEPT[token.type])
            tokens.append(token.string)


def _role_of_name(name: str, known: str | None, before: list[str]) -> str:
    """Return a name's role. `known`: its role by the syntax tree, which has no position for the name after `def` or `class`; None if the
    tree gives no role. `before`: a list with the token before the name in its logical line, or an empty list.
    """
    if keyword.iskeyword(name):
        return "keyword"
    if before in (["def"], ["class"]):
        return "function" if before == ["def"] else "class"
    return known or _KEPT[tokenize.NAME]


def _roles(tree: ast.Module, lines: list[str]) -> Iterator[tuple[Position, str]]:
    """Yield the position and the role of each name whose role the tree shows. Callees come last, so that `call` replaces `attribute`."""
    called = []
    for node in _walk(tree):
        match node:
            case ast.arg():
                yield (node.lineno, node.col_offset), "parameter"
            case ast.keyword(arg=str()):
                yield (node.lineno, node.col_offset), "argument"
            case ast.Attribute():
                yield _last_name(node), "attribute"
            case ast.Call(func=ast.Name() | ast.Attribute()):
                called.append(_last_name(node.func))
            case ast.Import() | ast.ImportFrom():
                yield from ((position, "import") for position in _words(node, lines))
            case ast.Match():
                yield (node.lineno, node.col_offset), "keyword"
            case ast.match_case():
                line = lines[node.pattern.lineno - 1]
                yield (node.pattern.lineno, len(line) - len(line.lstrip())), "keyword"
            case _ if type(node).__name__ == "TypeAlias":  # since Python 3.12
                yield (node.lineno, node.col_offset), "keyword"  # type: ignore[attr-defined]
    yield from ((position, "call") for position in called)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and its descendants. Before Python 3.12, nodes inside an f-string are left out, because their positions are wrong."""
    yield node
    if not isinstance(node, ast.JoinedStr) or _PARTS_OF_STRINGS:
        for inner in ast.iter_child_nodes(node):
            yield from _walk(inner)


def _last_name(node: ast.expr) -> Position:
    """Return the position of a name, or of the last part of a dotted name, such as `c` in `a.b.c`."""
    assert isinstance(node, ast.Name | ast.Attribute)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    name = node.id if isinstance(node, ast.Name) else node.attr
    return node.end_lineno, node.end_col_offset - len(name.encode())


def _words(node: ast.stmt, lines: list[str]) -> Iterator[Position]:
    """Yield the position of each word in a statement."""
    last = node.end_lineno or node.lineno
    for number in range(node.lineno, last + 1):
        line = lines[number - 1].encode()
        start = node.col_offset if number == node.lineno else 0
        end = node.end_col_offset if number == last else None
        yield from ((number, start + word.start()) for word in re.finditer(rb"\w+", line[start:end]))

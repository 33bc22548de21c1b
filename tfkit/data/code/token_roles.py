"""Lines of code as tokens, and the role of each, from `tokenize` and `ast`.

    def      move(     self      ,        steps     =        2      )        :
    keyword  function operator parameter operator parameter operator number operator operator

Roles of names: function and class (where they are defined), parameter, argument (the name in `f(name=1)`), call (the last name of a
call), attribute (after a dot), import (in an import statement), keyword, and variable, which is every other. Then string, number,
operator. Comments, docstrings and lines with long strings are excluded.
"""

import ast
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

_LONGEST = 48  # tokens of a row, unless a single line has more, up to
_LONGEST_LINE = 96
_FEWEST = 4
_LONGEST_STRING = 60  # characters
_KEPT = {tokenize.NAME: "variable", tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}
# Since Python 3.12 an f-string is not a single token, and since 3.14 there are t-strings.
_PARTS_OF_STRINGS = [getattr(tokenize, name) for name in dir(tokenize) if name.startswith(("FSTRING_", "TSTRING_"))]
_KEPT |= dict.fromkeys(_PARTS_OF_STRINGS, "string")

Place = tuple[int, int]  # line from 1, and column in UTF-8


class _Line(NamedTuple):
    """A logical line."""

    number: int
    tokens: list[str]
    tags: list[str]


def token_roles(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield tokens and tags of short runs of lines; a definition begins a new one."""
    roles = dict(_roles(tree, text.split("\n")))
    run: list[_Line] = []
    for line in _lines(text, roles):
        begins = line.tokens[0] in ("def", "class", "async", "@") and not (run and run[-1].tokens[0] == "@")
        if run and (begins or sum(len(one.tokens) for one in run) + len(line.tokens) > _LONGEST):
            yield from _row(run)
            run = []
        run.append(line)
    yield from _row(run)


def _row(run: list[_Line]) -> Iterator[tuple[int, dict[str, Any]]]:
    tokens = [token for line in run for token in line.tokens]
    if len(tokens) >= _FEWEST:
        yield run[0].number, {"tokens": tokens, "tags": [tag for line in run for tag in line.tags]}


def _lines(text: str, roles: dict[Place, str]) -> Iterator[_Line]:
    """Yield the logical lines that are usable."""
    number, tokens, tags = 0, list[str](), list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            if tags != ["string"] and 0 < len(tokens) <= _LONGEST_LINE and not any(map(_is_long, tokens)):
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


def _is_long(token: str) -> bool:
    return len(token) > _LONGEST_STRING or "\n" in token


def _role_of_name(name: str, known: str | None, before: list[str]) -> str:
    """Return a name's role. A tree has no position for a name that is defined: it follows its keyword."""
    if keyword.iskeyword(name):
        return "keyword"
    if before in (["def"], ["class"]):
        return "function" if before == ["def"] else "class"
    return known or _KEPT[tokenize.NAME]


def _roles(tree: ast.Module, lines: list[str]) -> Iterator[tuple[Place, str]]:
    """Yield the positions of the nodes' names, and their roles; of an attribute that is called, which has two, the better one last."""
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
                yield from ((place, "import") for place in _words(node, lines))
            case ast.Match():
                yield (node.lineno, node.col_offset), "keyword"
            case ast.match_case():
                line = lines[node.pattern.lineno - 1]
                yield (node.pattern.lineno, len(line) - len(line.lstrip())), "keyword"
            case _ if type(node).__name__ == "TypeAlias":  # since 3.12
                yield (node.lineno, node.col_offset), "keyword"  # type: ignore[attr-defined]
    yield from ((place, "call") for place in called)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but not into an f-string that is one token: positions in it are not those of the file."""
    yield node
    if not isinstance(node, ast.JoinedStr) or _PARTS_OF_STRINGS:
        for inner in ast.iter_child_nodes(node):
            yield from _walk(inner)


def _last_name(node: ast.expr) -> Place:
    """Return the position of a name, or of an attribute's last name."""
    assert isinstance(node, ast.Name | ast.Attribute)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    name = node.id if isinstance(node, ast.Name) else node.attr
    return node.end_lineno, node.end_col_offset - len(name.encode())


def _words(node: ast.stmt, lines: list[str]) -> Iterator[Place]:
    """Yield the positions of the words of a statement."""
    last = node.end_lineno or node.lineno
    for number in range(node.lineno, last + 1):
        line = lines[number - 1].encode()
        start = node.col_offset if number == node.lineno else 0
        end = node.end_col_offset if number == last else None
        yield from ((number, start + word.start()) for word in re.finditer(rb"\w+", line[start:end]))

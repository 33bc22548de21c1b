"""Labelled rows made from Python's standard library, for three tasks: to summarise a function (`docstrings`), to tag tokens with their
roles (`token_roles`), and to name the package of a piece of code (`packages`).
"""

import ast
import inspect
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")
_WORDS = range(3, 61)  # how many words a docstring's first sentence may have as a target; some docstrings begin with a long list instead
_HAVE_DOCSTRINGS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_MAX_TOKENS = 48  # the most tokens in a row of several lines
_MAX_LINE_TOKENS = 96  # the most tokens in a row of a single line; a longer line is left out
_MIN_TOKENS = 4  # the fewest tokens in a row; a shorter row is left out
_MAX_STRING = 60  # the most characters in a token; a line with a longer token is left out
_KEPT = {tokenize.NAME: "variable", tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}
# Since Python 3.12 an f-string is several tokens; Python 3.14 added t-strings.
_PARTS_OF_STRINGS = [getattr(tokenize, name) for name in dir(tokenize) if name.startswith(("FSTRING_", "TSTRING_"))]
_KEPT |= dict.fromkeys(_PARTS_OF_STRINGS, "string")

Position = tuple[int, int]  # line number, from 1, and column, from 0, counted in UTF-8 bytes
_MIN_CHUNK_LINES = 30  # a chunk of `packages` ends at the first blank line from its 30th line on
_MIN_LAST_LINES = 8  # the last chunk of a file is left out if it has fewer lines that are not blank, and so too little information


def docstrings(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the columns of each function or method with a usable summary in its docstring: `source`, the code without
    docstrings; `target`, the first sentence of the function's own docstring; `name`, such as `Class.method`.

    The docstrings of nested definitions are removed too, so that no row contains another row's target. Functions whose body is only a
    docstring are excluded, as are functions whose code contains the target literally (in a comment or a message).
    """
    lines = text.split("\n")  # ast ends lines only at \n; splitlines would also split at form feeds
    cuts = [(node.body[0], len(node.body) == 1) for node in ast.walk(tree) if isinstance(node, _HAVE_DOCSTRINGS) and _docstring(node)]
    for name, node in _functions(tree, ""):
        docstring = _docstring(node)
        target = summary(docstring) if docstring and len(node.body) > 1 else None
        if target is None:
            continue
        inside = [cut for cut in cuts if node.lineno <= cut[0].lineno <= (node.end_lineno or node.lineno)]
        source = _strip_docstrings(lines, node, inside)
        if target.rstrip(".!?") not in " ".join(source.replace("#", " ").split()):
            yield node.lineno, {"source": source, "target": target, "name": name}


def summary(docstring: str) -> str | None:
    """Return the first sentence of a docstring, on one line; None if it has fewer or more words than `_WORDS` allows, or is a doctest."""
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    sentence = " ".join(paragraph.split())
    if end := _END.search(sentence):
        sentence = sentence[: end.end()]
    return sentence if len(sentence.split()) in _WORDS and not sentence.startswith(">>>") else None


def _docstring(node: ast.AST) -> str | None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    return text
    return None


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the qualified name and the node of each function below a node, in source order."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + inner.name, inner
        yield from _functions(inner, f"{prefix}{inner.name}." if isinstance(inner, _HAVE_DOCSTRINGS) else prefix)


def _strip_docstrings(lines: list[str], node: ast.stmt, cuts: list[tuple[ast.stmt, bool]]) -> str:
    """Return a function's source, dedented, without the docstrings inside. `cuts`: each docstring, and whether it is the whole body of its
    definition; a docstring that is the whole body becomes `pass`.
    """
    first = node.lineno - 1
    code = lines[first : node.end_lineno]
    indent = code[0][: len(code[0]) - len(code[0].lstrip())]
    for docstring, alone in sorted(cuts, key=lambda cut: -cut[0].lineno):  # backwards, so that earlier lines keep their numbers
        start, end = docstring.lineno - 1 - first, (docstring.end_lineno or docstring.lineno) - 1 - first
        before = _slice_bytes(code[start], None, docstring.col_offset)
        after = _slice_bytes(code[end], docstring.end_col_offset, None).lstrip()
        if alone:
            after = f"pass  {after}" if after else "pass"
        elif after.startswith(";"):
            after = after[1:].lstrip()
        code[start : end + 1] = [before + after] if before.strip() or after else []
        while not alone and not after and start < len(code) and not code[start].strip():
            del code[start]
    return "\n".join(line.removeprefix(indent).rstrip() for line in code)


def _slice_bytes(line: str, start: int | None, end: int | None) -> str:
    """Slice a line by UTF-8 byte offsets, which ast uses."""
    return line.encode()[start:end].decode()


class _Line(NamedTuple):
    """A logical line: the number of its first line in the file, its tokens, and the role of each token."""

    number: int
    tokens: list[str]
    tags: list[str]


def token_roles(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line number, and the columns `tokens` and `tags` (roles), of each row. A row is one line, or several lines with at
    most `_MAX_TOKENS` tokens in all. A line that begins with def, class, async or @ begins a row, unless a decorator precedes the line.

        def      move(     self      ,        steps     =        2      )        :
        keyword  function operator parameter operator parameter operator number operator operator

    Roles of names: function and class (at the definition), parameter, argument (the name in `f(name=1)`), call (the last name of the
    callee), attribute (after a dot), import (in an import statement), keyword, and variable for all others. Roles of other tokens:
    string, number, operator. Comments, docstrings, overlong lines, and lines with a long or multi-line string are excluded.
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


def packages(path: str, text: str, tree: ast.Module) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the chunks of a module, each as its first line number and its columns `text` and `label` (the top-level package).

    A module outside any package gives no chunks. Import statements are removed, since they may name the package.
    """
    label, slash, _ = path.partition("/")
    if not slash:
        return
    imports = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    chunk: list[str] = []
    first = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if number in imports:
            continue
        if not chunk:
            first = number
        if line.strip() or chunk:
            chunk.append(line.rstrip())
        if len(chunk) >= _MIN_CHUNK_LINES and not line.strip():
            yield first, {"text": "\n".join(chunk).rstrip(), "label": label}
            chunk = []
    if sum(map(bool, chunk)) >= _MIN_LAST_LINES:
        yield first, {"text": "\n".join(chunk).rstrip(), "label": label}


class Task(NamedTuple):
    """A task: `find` takes the path, the text and the syntax tree of a file, and yields the first line number and the columns of each
    example in the file; `input_column` is the column that the model reads.
    """

    find: Callable[[str, str, ast.Module], Iterator[tuple[int, dict[str, Any]]]]
    input_column: str


TASKS = {
    "docstrings": Task(docstrings, "source"),
    "token_roles": Task(token_roles, "tokens"),
    "packages": Task(packages, "text"),
}


def parse(content: bytes) -> tuple[str, ast.Module] | None:
    """Return a file's text, with its line ends as \\n, and its syntax tree; None if it is not UTF-8 or this Python cannot parse it."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parsed code may have invalid escapes
            return text, ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None

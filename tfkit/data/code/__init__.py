"""Labelled rows made from Python's standard library, for three tasks: to summarise a function (`docstrings`), to tag tokens with their
roles (`token_roles`), and to name the package of a piece of code (`packages`).
"""

import ast
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tfkit.data.code.docstrings import docstrings
from tfkit.data.code.token_roles import token_roles

_LINES = 30  # a chunk of `packages` ends at the first blank line from its 30th line on
_MIN_LAST_LINES = 8  # the last chunk of a file is left out if it has fewer lines that are not blank, and so too little information


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
        if len(chunk) >= _LINES and not line.strip():
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

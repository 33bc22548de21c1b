"""Labelled rows from Python source code, for the standard library tasks: the examples of one file at a time, as columns."""

import ast
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tfkit.data.code.docstrings import docstrings
from tfkit.data.code.packages import packages
from tfkit.data.code.token_roles import token_roles


class Task(NamedTuple):
    """A task. `find` yields (line, columns) for each example in a file, given its path, text and syntax tree."""

    find: Callable[[str, str, ast.Module], Iterator[tuple[int, dict[str, Any]]]]
    input_column: str


TASKS = {
    "docstrings": Task(docstrings, "source"),
    "token_roles": Task(token_roles, "tokens"),
    "packages": Task(packages, "text"),
}


def parse(content: bytes) -> tuple[str, ast.Module] | None:
    """Return a file's text, with its line ends as \\n, and its syntax tree; None if this Python version cannot parse it."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return text, ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None

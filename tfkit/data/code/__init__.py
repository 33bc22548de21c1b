"""Labelled rows from Python source, for the tasks of the standard library: the examples of one file at a time, as columns."""

import ast
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tfkit.data.code.docstrings import docstrings
from tfkit.data.code.packages import packages
from tfkit.data.code.token_roles import token_roles


class Task(NamedTuple):
    """`find` yields (line, columns) for each example of a file, from its path, text and tree; `given` is the input column."""

    find: Callable[[str, str, ast.Module], Iterator[tuple[int, dict[str, Any]]]]
    given: str


TASKS = {
    "docstrings": Task(docstrings, "source"),
    "token_roles": Task(token_roles, "tokens"),
    "packages": Task(packages, "text"),
}


def parse(content: bytes) -> tuple[str, ast.Module] | None:
    """Return the text of a file, with plain line ends, and its tree; None if this Python cannot read it."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes in other people's strings
            return text, ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None

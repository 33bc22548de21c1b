"""The problems of a recipe: one line each, all in one error."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfkit.errors import UsageError
from tfkit.recipe.reading.tree import Node, Path, Place, dotted, place_of

MAX_LINES = 100
MAX_PATH = 200  # largest number of characters of a path in a message
MAX_MESSAGE = 1000  # largest number of characters of a message


@dataclass(frozen=True)
class Problem:
    """A problem of a recipe."""

    place: Place
    path: Path  # the path of the field; empty: the problem is one of the whole file
    message: str  # what is wrong, and the remedy

    def __str__(self) -> str:
        where = f"{self.place}: {cut(dotted(self.path), MAX_PATH)}" if self.path else str(self.place)
        return f"{where}: {cut(self.message, MAX_MESSAGE)}"


def problem_at(tree: Node, path: Path, message: str, *, key: bool = False) -> Problem:
    """Return a problem at the place of its field in the tree. `key`: at the field's key, not at its value."""
    return Problem(place_of(tree, path, key=key), path, message)


class RecipeError(UsageError):
    """All problems of a recipe, one per line: first the problems of the file, by their places, then the problems of the overrides."""

    def __init__(self, problems: Iterable[Problem]):
        distinct = dict.fromkeys(problems)
        self.problems = sorted(distinct, key=lambda problem: (not problem.place.file, problem.place))
        lines = [str(problem) for problem in self.problems[:MAX_LINES]]
        if more := len(self.problems) - len(lines):
            lines.append(f"and {more} more")
        super().__init__("\n".join(lines))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the problems as `tfkit check --json` reports them."""
        return [
            {
                "file": problem.place.name,
                "line": problem.place.line or None,
                "column": problem.place.column or None,
                "path": dotted(problem.path),
                "message": problem.message,
            }
            for problem in self.problems
        ]


def quoted(value: object, limit: int = 60) -> str:
    """Return a user's value for a message: quoted, on one line, truncated if it is long."""
    return cut(repr(value), limit)


def cut(text: str, limit: int) -> str:
    """Return the text on one line, truncated at `limit` characters, because a name in a hostile file may be a megabyte long."""
    return on_one_line(text if len(text) <= limit else f"{text[: limit - 3]}...")


def on_one_line(text: str) -> str:
    """Return the text with an escape sequence in place of each unprintable character: a line break, or a command to the terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)

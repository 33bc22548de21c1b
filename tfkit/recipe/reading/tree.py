"""A recipe between text and record: values with their positions, so that every error has one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Place:
    """A point in a file, counted from 1, or the command line, which has no lines."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


COMMAND_LINE = Place("command line")


@dataclass
class Scalar:
    """A number, a text, true, false or null. `text` is its spelling."""

    place: Place
    value: str | int | float | bool | None
    text: str


@dataclass
class Sequence:
    """A list."""

    place: Place
    items: list["Node"] = field(default_factory=list)


@dataclass
class Mapping:
    """Keys in the order of the file, and the position of each key."""

    place: Place
    values: dict[str, "Node"] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)

    def set(self, key: str, value: "Node", place: Place) -> None:
        """Put a value under a key; the place becomes the key's position."""
        self.values[key] = value
        self.keys[key] = place


Node = Scalar | Sequence | Mapping


def plain(node: Node) -> Any:
    """Convert a node to dicts, lists and scalars."""
    match node:
        case Mapping():
            return {key: plain(value) for key, value in node.values.items()}
        case Sequence():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.value


def flatten(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections under dotted names; lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def child(node: Node, step: str | int) -> Node | None:
    """Return the value under a key or an index; None if there is none."""
    if isinstance(node, Mapping) and isinstance(step, str):
        return node.values.get(step)
    if isinstance(node, Sequence) and isinstance(step, int) and 0 <= step < len(node.items):
        return node.items[step]
    return None


def walk(root: Node, path: Path) -> Iterator[tuple[str | int, Node, Node | None]]:
    """Yield each step of a path with the node it leaves and the one it reaches, up to the first that reaches nothing."""
    here: Node | None = root
    for step in path:
        if here is None:
            return
        reached = child(here, step)
        yield step, here, reached
        here = reached


def find(root: Node, path: Path) -> Node | None:
    """Return the node at a path; None if there is none."""
    here: Node | None = root
    for step in path:
        here = child(here, step) if here is not None else None
    return here


def place_of(root: Node, path: Path, *, key: bool) -> Place:
    """Return the place of an error at `path`: a section or an unknown field at its key, a wrong value (`key` false) at the value.

    Values that are not written (a missing field, a value of a preset) point to the nearest section that is.
    """
    place = root.place
    for depth, (step, here, reached) in enumerate(walk(root, path), 1):
        if reached is None:
            break
        at_key = key or depth < len(path) or not isinstance(reached, Scalar)
        place = here.keys[str(step)] if isinstance(here, Mapping) and at_key else reached.place
    return place


def dotted(path: Path) -> str:
    """Return data.train.0.path, as in overrides."""
    return ".".join(str(step) for step in path)

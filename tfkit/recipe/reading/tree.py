"""The tree of a recipe: its values with their positions in the file, which errors name."""

from collections import abc
from dataclasses import dataclass, field
from numbers import Integral, Real
from os import PathLike
from typing import Any

from tfkit.errors import argument

Path = tuple[str | int, ...]
MAX_INTEGER = 2**63  # no field accepts an integer this large


@dataclass(frozen=True, order=True)
class Place:
    """A position in a file: line and column, from 1. For overrides, which are in no file, `file` is empty, and line and column are 0."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.name

    @property
    def name(self) -> str:
        """The file; for overrides, `command line`, or the name of the library's argument."""
        return self.file or argument("overrides").strip("`")


OVERRIDES = Place("")
STAGES = "stages"  # the only section of a chain


@dataclass
class Scalar:
    """A number, a text, true, false or null."""

    place: Place
    value: str | int | float | bool | None


@dataclass
class Sequence:
    """A list."""

    place: Place
    items: list["Node"] = field(default_factory=list)


@dataclass
class Mapping:
    """A section: its keys and values in the order of the file, and the position of each key."""

    place: Place
    values: dict[str, "Node"] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)

    def set(self, key: str, value: "Node", place: Place) -> None:
        """Set the value of a key, and the key's position."""
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


def has_stages(tree: Node | None) -> bool:
    """Whether a tree is that of a recipe with stages (a chain)."""
    return isinstance(tree, Mapping) and STAGES in tree.values


def tree_of(value: Any, levels: int) -> Node:
    """Return the tree of a value that is in no file. Raises ValueError if it is nested deeper than `levels`, or no recipe can hold it."""
    if not levels:
        raise ValueError("is nested too deep")
    if hasattr(value, "tolist"):  # a number or an array of NumPy, pandas or PyTorch
        value = value.tolist()
    if isinstance(value, abc.Mapping):
        items = {str(key): tree_of(inner, levels - 1) for key, inner in value.items()}
        return Mapping(OVERRIDES, items, dict.fromkeys(items, OVERRIDES))
    if isinstance(value, list | tuple):
        return Sequence(OVERRIDES, [tree_of(inner, levels - 1) for inner in value])
    scalar = _scalar(value)
    if isinstance(scalar, int) and abs(scalar) >= MAX_INTEGER:
        raise ValueError("the number is too large")
    if isinstance(scalar, str) and any("\ud800" <= character <= "\udfff" for character in scalar):
        raise ValueError("half a character (a surrogate); write the whole character")
    return Scalar(OVERRIDES, scalar)


def _scalar(value: Any) -> str | int | float | None:
    """Return a value as a scalar of YAML; a path becomes a text. Raises ValueError for a value of any other type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | PathLike):
        return str(value)
    if not isinstance(value, Real):
        raise ValueError(f"is of type {type(value).__name__}, which no recipe can hold; give a number, a text, a list or a dict")
    return int(value) if isinstance(value, Integral) else float(value)


def flatten(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values in nested sections by dotted name; a list is one value."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def child(node: Node, step: str | int) -> Node | None:
    """Return the value under a key or an index; None if there is no such value."""
    if isinstance(node, Mapping) and isinstance(step, str):
        return node.values.get(step)
    if isinstance(node, Sequence) and isinstance(step, int) and 0 <= step < len(node.items):
        return node.items[step]
    return None


def place_of(root: Node, path: Path, *, key: bool) -> Place:
    """Return the place of an error at `path`: that of a list's entry, or of a scalar if `key` is false; else that of the value's key.

    A value that is not in the file (a missing field, a value of a preset) has the place of the innermost section of `path` in the file.
    """
    place, node = root.place, root
    for depth, step in enumerate(path, 1):
        inner = child(node, step)
        if inner is None:
            break
        at_key = key or depth < len(path) or not isinstance(inner, Scalar)
        place = node.keys[str(step)] if isinstance(node, Mapping) and at_key else inner.place
        node = inner
    return place


def dotted(path: Path) -> str:
    """Return a path as a dotted name, as in overrides: data.train.0.path."""
    return ".".join(str(step) for step in path)

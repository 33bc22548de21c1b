"""Parsing of YAML 1.2 into a tree with positions, of limited size and depth. Duplicate keys, tags and a second document are errors.

ruamel.yaml yields the events of the parser; this module interprets them: `no` is a text, 1e-4 is a number, and no Python object is built.
"""

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from tfkit.recipe.reading.problems import Problem, RecipeError
from tfkit.recipe.reading.tree import MAX_INTEGER, Mapping, Node, Path, Place, Scalar, Sequence

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 20_000  # limit for a text; the values of an alias count each time that it is used
MAX_WORD = 100_000  # limit of characters without a space: ruamel.yaml's time to read a tag grows with the square of the tag's length

# The core schema, https://yaml.org/spec/1.2.2/#103-core-schema
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_WORD = re.compile(r"\S+")


def parse(text: str, file: str, fixed_place: Place | None = None) -> tuple[Node | None, list[Problem]]:
    """Return the tree of a YAML text (None if it is empty), and the problems after which the rest could still be read.

    `fixed_place`: the place of all nodes, for a text that is not in a file. Raises RecipeError for text that is not YAML or too large.
    """
    return _Composer(text, file, fixed_place).compose()


def read_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2. Raises ValueError for an integer that is too large."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        number = int(text, 0) if text[:2] in ("0o", "0x") else int(text[:40], 10)
        if len(text) > 40 or abs(number) >= MAX_INTEGER:
            raise ValueError("the number is too large")
        return number
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Composer:
    """A builder of the tree from the parser's events. It takes them one by one, so a text over a limit is not read to its end."""

    def __init__(self, text: str, file: str, fixed_place: Place | None):
        self.text, self.file, self.fixed_place = text, file, fixed_place
        self.problems: list[Problem] = []
        self.anchors: dict[str, tuple[Node, int]] = {}
        self.open_anchors: set[str] = set()
        self.count = 0
        self.path: Path = ()
        self.current = self._place(1, 1)

    def compose(self) -> tuple[Node | None, list[Problem]]:
        if long := next((word for word in _WORD.finditer(self.text) if word.end() - word.start() > MAX_WORD), None):
            self._fail(self._place_at(long.start()), f"more than {MAX_WORD:,} characters without a space, which no recipe needs")
        root: Node | None = None
        try:
            events = iter(YAML(typ="safe", pure=True).parse(self.text))
            for event in events:
                self.current = self._at(event)
                if isinstance(event, DocumentStartEvent):
                    if root is not None:
                        self._fail(self.current, "a second document begins here; a recipe is one document, so remove the ---")
                    root = self._node(next(events), events)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(part for part in (error.context, error.problem) if part) or "not YAML"
            place = self._place(mark.line + 1, mark.column + 1) if mark else self.current
            self._fail(place, "a tab; YAML indents with spaces only" if "'\\t'" in what else f"not YAML: {what}")
        except RecipeError:
            raise
        except ReaderError as error:
            self._fail(self._place_at(error.position), f"the control character {self.text[error.position]!r}, which YAML does not allow")
        except (YAMLError, OverflowError, ValueError):
            self._fail(self.current, "not YAML from here on: a character or an escape that is not allowed")
        return root, self.problems

    def _node(self, event: Any, events: Iterator[Any]) -> Node:
        self.current = place = self._at(event)
        self._count(1)
        if isinstance(event, AliasEvent):
            return self._alias(event, place)
        if (tag := _tag(event)) is not None:
            self._problem(place, f"the tag {tag}: a recipe has no tags; write the value without it")
        before = self.count
        if event.anchor:
            self.open_anchors.add(event.anchor)
        if isinstance(event, MappingStartEvent):
            node: Node = self._mapping(place, events)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(place, events)
        else:
            node = self._scalar(event, place)
        if event.anchor:
            self.open_anchors.discard(event.anchor)
            self.anchors[event.anchor] = node, self.count - before
        return node

    def _alias(self, event: AliasEvent, place: Place) -> Node:
        if event.anchor in self.open_anchors:
            self._fail(place, f"*{event.anchor} is inside &{event.anchor} itself")
        if event.anchor not in self.anchors:
            self._fail(place, f"*{event.anchor}: there is no &{event.anchor} before it")
        node, size = self.anchors[event.anchor]
        self._count(size)
        return copy_of(node)

    def _mapping(self, place: Place, events: Iterator[Any]) -> Mapping:
        mapping, path = Mapping(place), self.path
        self._enter(place)
        while not isinstance(event := next(events), MappingEndEvent):
            key_place = self.current = self._at(event)
            if not isinstance(event, ScalarEvent):
                self._fail(key_place, "a field is named by a word, not by a list, a section or an alias")
            key = event.value
            self._refuse_surrogates(key, key_place)
            self.path = (*path, key)
            if key in mapping.values:
                self._problem(key_place, f"given twice, first at {mapping.keys[key]}; remove one")
            value = self._node(next(events), events)
            if key not in mapping.values:
                mapping.set(key, value, key_place)
        self.path = path
        return mapping

    def _sequence(self, place: Place, events: Iterator[Any]) -> Sequence:
        sequence, path = Sequence(place), self.path
        self._enter(place)
        while not isinstance(event := next(events), SequenceEndEvent):
            self.path = (*path, len(sequence.items))
            sequence.items.append(self._node(event, events))
        self.path = path
        return sequence

    def _scalar(self, event: ScalarEvent, place: Place) -> Scalar:
        self._refuse_surrogates(event.value, place)
        if not event.implicit[0]:
            return Scalar(place, event.value)
        try:
            return Scalar(place, read_scalar(event.value))
        except ValueError as error:
            self._problem(place, str(error))
            return Scalar(place, None)

    def _refuse_surrogates(self, text: str, place: Place) -> None:
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._fail(place, "half a character (a surrogate); write the whole character, or its code as \\U and eight digits")

    def _enter(self, place: Place) -> None:
        if len(self.path) >= MAX_DEPTH:
            self._fail(place, f"nested deeper than {MAX_DEPTH} levels, which no recipe needs")

    def _count(self, values: int) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            self._fail(self.current, f"more than {MAX_VALUES:,} values, counting every use of an alias: too large for a recipe")

    def _place(self, line: int, column: int) -> Place:
        return self.fixed_place or Place(self.file, line, column)

    def _place_at(self, index: int) -> Place:
        before = self.text[:index]
        return self._place(before.count("\n") + 1, index - before.rfind("\n"))

    def _at(self, event: Any) -> Place:
        return self._place(event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, place: Place, message: str) -> None:
        self.problems.append(Problem(place, self.path, message))

    def _fail(self, place: Place, message: str) -> None:
        """Raise RecipeError with this problem and all earlier ones, because the text after `place` cannot be read."""
        raise RecipeError([*self.problems, Problem(place, (), message)])


def _tag(event: Any) -> str | None:
    """Return the tag as it is written, because ruamel.yaml decodes long tags slowly; None for no tag, or for a bare `!`."""
    tag = event.ctag
    return None if tag is None or tag.suffix in (None, "!") else f"{tag.handle or ''}{tag.suffix}"


def copy_of(node: Node) -> Node:
    """Copy a tree, or the value of an alias, so that an override of the copy does not change the original."""
    match node:
        case Mapping():
            return Mapping(node.place, {key: copy_of(value) for key, value in node.values.items()}, dict(node.keys))
        case Sequence():
            return Sequence(node.place, [copy_of(item) for item in node.items])
        case Scalar():
            return node

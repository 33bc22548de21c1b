"""From the columns of a record to the roles of a row: by the names that a recipe gives, else by those that are recognised.

A name is a column, a path into one (`instances.0.input`), or a template of several (`translate English to French: {en}`); a list of
names is the list of what they stand for (`[sol1, sol2]`).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from tfkit.data.rows import BadRow, Row
from tfkit.errors import DataError
from tfkit.recipe.roles import TEXT, Role

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_MISSING = object()
_MOST_NAMES = 20


class Record(NamedTuple):
    """One record of a source as it stands there, and its place."""

    values: Mapping[str, Any]
    place: str


Records = Iterator[Record | BadRow]
_GOLD = "gold_label"  # of SNLI and its kin, where "-" says that those who labelled the row did not agree


@dataclass(frozen=True)
class Columns:
    """Which columns stand for which roles. `named`: those that the recipe names, by role; `beside`: those that come from other files."""

    roles: tuple[Role, ...] = TEXT
    named: Mapping[str, str | list[str]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    beyond_roles: ClassVar[tuple[str, ...]] = ()  # what else tells which columns are read

    def take(self, record: Record) -> Row | BadRow:
        """The row of a record; a bad one where a column is missing, or does not hold what its role is."""
        values: dict[str, Any] = {}
        roles = self._of_shape(lambda role: self._find(role, record.values)[0] is not _MISSING)
        if roles is None:
            return self._shapeless(record.values, record.place)
        for role in roles:
            found, column = self._find(role, record.values)
            if found is _MISSING:
                if role.required:
                    return self.missing(role, record.values, record.place)
                continue
            value = _Unfit("a dash alone", "a label") if column == _GOLD and found == "-" else _READERS[role.form](found)
            if isinstance(value, _Unfit):
                if found is None and not role.required:
                    continue
                return BadRow(
                    f"{value.found}, not {value.wanted}",
                    f"{record.place}: column {column!r} holds {value.found}, not {value.wanted}; "
                    f"name another column with {self._remedy(role)}, remove the row",
                )
            if half := _half_character(value):
                return BadRow(
                    "half a surrogate pair", f"{record.place}: column {column!r} holds half a surrogate pair at {half}; repair the row"
                )
            values[role.name] = value
        return Row(self._text(values), record.place, values)

    def read_of(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Of each role of a record the column that it is taken from."""
        found = {role.name: self._find(role, values) for role in self.roles}
        return {name: column for name, (value, column) in found.items() if value is not _MISSING}

    def check(self, found: Iterable[str], place: str) -> None:
        """Raise DataError if none of these columns can stand for a role that every row must have."""
        names = dict.fromkeys([*found, *self.beside])

        def there(role: Role) -> bool:
            enough = all if role.name in self.named else any
            return enough(name in names or self._root(name) in names for name in self._names(role))

        roles = self._of_shape(there)
        if roles is None:
            raise DataError(self._shapeless(names, place).message)
        for role in roles:
            if role.required and not there(role):
                raise DataError(self.missing(role, names, place).message)
        if any(role.name == "pair" for role in roles) and not {"text", "pair"} & {*self.named}:
            self._check_one_text(names, place)

    def _check_one_text(self, names: Mapping[str, Any], place: str) -> None:
        """Raise DataError where several columns may each be the one text of a row, and no pair is there: the others would go unread."""
        text, pair = (next(role for role in self.roles if role.name == name) for name in ("text", "pair"))
        found = [name for name in text.columns if name in names]
        if len(found) > 1 and not any(name in names for name in pair.columns):
            first, second = found[:2]
            raise DataError(
                f"{place}: the columns {first!r} and {second!r} may each be the text: say which one is with columns: {{text: NAME}}, or "
                f"both with columns: {{text: {first}, pair: {second}}}"
            )

    def wanted(self, found: Iterable[str]) -> list[str]:
        """Those of the columns that are read."""
        read = {name for role in self.roles for name in self._names(role)}
        roots = {self._root(name) for name in read}
        return [name for name in found if name in read or name in roots]

    def missing(self, role: Role, found: Mapping[str, Any], place: str) -> BadRow:
        """What is said of a record without the column of a role; of a template or list of columns, those that are missing."""
        names = self._names(role)
        if role.name in self.named:
            no_such = [name for name in names if name not in found and self._root(name) not in found]
            names = no_such or [name for name in names if _look_up(name, found) is _MISSING]
        wanted = (" and " if role.name in self.named else " or ").join(map(repr, names))
        template = next((f" for the {role.name} {name!r}" for name in self._spelled(role) if "{" in name), "")
        return BadRow(
            f"no column {wanted}",
            f"{place}: no column {wanted}{template}; columns found: {_listed(found)}; "
            f"name the one that holds the {role.name} with {self._remedy(role)}",
        )

    def fingerprint(self) -> str:
        """Equal where the same records give the same rows."""
        return "\0".join(f"{role.name}={self.named.get(role.name) or role.columns}" for role in self.roles)

    def _shapes(self) -> list[tuple[Role, ...]]:
        """The roles of each shape that rows may have; if a recipe names columns of one, of that alone. None where all rows are alike."""
        by_shape: dict[str, list[Role]] = {}
        for role in self.roles:
            if role.shape is not None:
                by_shape.setdefault(role.shape, []).append(role)
        named = [shape for shape, roles in by_shape.items() if any(role.name in self.named for role in roles)]
        return [tuple(by_shape[shape]) for shape in named or by_shape]

    def _of_shape(self, there: Callable[[Role], bool]) -> tuple[Role, ...] | None:
        """The roles of a row: of the first shape whose columns it has, and those of all rows. None if it has no shape."""
        shapes = self._shapes()
        if not shapes:
            return self.roles
        found = next((roles for roles in shapes if all(there(role) for role in roles if role.required)), None)
        return None if found is None else tuple(role for role in self.roles if role.shape is None or role in found)

    def _shapeless(self, found: Mapping[str, Any], place: str) -> BadRow:
        """What is said of a record that has the columns of no shape."""
        shapes = [[role for role in roles if role.required] for roles in self._shapes()]
        wanted = ", nor for ".join(" and ".join(role.name for role in roles) for roles in shapes)
        remedies = " or ".join("columns: {" + ", ".join(f"{role.name}: NAME" for role in roles) + "}" for roles in shapes)
        return BadRow(
            f"no columns for {wanted}", f"{place}: no columns for {wanted}; columns found: {_listed(found)}; name them with {remedies}"
        )

    def _text(self, values: Mapping[str, Any]) -> str:
        """All texts of a row, a line each, words of a sentence joined by spaces. Labels are none: rows with equal texts are equal."""
        found = [(role.form, values[role.name]) for role in self.roles if role.name in values and role.form not in ("label", "labels")]
        return "\n".join((" " if form == "texts" else "\n").join(_texts(value)) for form, value in found)

    def _spelled(self, role: Role) -> tuple[str, ...]:
        named = self.named.get(role.name)
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)

    def _names(self, role: Role) -> list[str]:
        """The columns, or paths into them, from which a role is taken."""
        return [inner for name in (self._spelled(role) or role.columns) for inner in _columns_of(name)]

    def _root(self, name: str) -> str:
        return name.partition(".")[0]

    def _find(self, role: Role, values: Mapping[str, Any]) -> tuple[Any, str]:
        """What a record has for a role, and the name of the column."""
        if isinstance(several := self.named.get(role.name), list):
            parts = [_value(name, values) for name in several]
            return (_MISSING if any(part is _MISSING for part in parts) else parts), ", ".join(several)
        for name in self._spelled(role) or role.columns:
            found = _value(name, values)
            if found is not _MISSING:
                return found, name
        return _MISSING, ""

    def _remedy(self, role: Role) -> str:
        return "text: NAME" if role.name == "text" else f"columns: {{{role.name}: NAME}}"


def _listed(found: Mapping[str, Any]) -> str:
    """The names of columns, the first ones of many."""
    return ", ".join(map(str, list(found)[:_MOST_NAMES])) + (", ..." if len(found) > _MOST_NAMES else "") or "none"


def _columns_of(name: str) -> list[str]:
    """The columns of a template, or the one that is named."""
    return [match[1] for match in _PLACE.finditer(name) if match[1] is not None] if "{" in name else [name]


def _value(name: str, values: Mapping[str, Any]) -> Any:
    """What a record has for one name."""
    return _fill(name, values) if "{" in name else _look_up(name, values)


def _look_up(name: str, values: Any) -> Any:
    """The value of a column, or along a path of keys and list places."""
    if isinstance(values, Mapping) and name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    if not dot:
        return _MISSING if not isinstance(values, list) else _at(values, first)
    inner = _at(values, first) if isinstance(values, list) else values.get(first, _MISSING) if isinstance(values, Mapping) else _MISSING
    return inner if inner is _MISSING else _look_up(rest, inner)


def _at(values: list[Any], place: str) -> Any:
    return values[int(place)] if place.isdecimal() and int(place) < len(values) else _MISSING


def _fill(template: str, values: Mapping[str, Any]) -> Any:
    """The text of a template; missing if one of its columns is, and what a column holds if that is no text."""
    parts, end = [], 0
    for match in _PLACE.finditer(template):
        parts.append(template[end : match.start()])
        end = match.end()
        if match[1] is None:
            parts.append(match[0][0])
            continue
        found = _look_up(match[1], values)
        if found is _MISSING:
            return _MISSING
        text = _written(found) if not isinstance(found, list) else _text(found)
        if isinstance(text, _Unfit):
            return found
        parts.append(text)
    return "".join([*parts, template[end:]])


class _Unfit(NamedTuple):
    found: str
    wanted: str


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _text(value: Any) -> str | _Unfit:
    """A text; the sentences of a list are joined by spaces."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return value if isinstance(value, str) else _Unfit(_kind(value), "text")


def _written(value: Any) -> str | _Unfit:
    """A text or number as it is written: 1 for 1 and 1.0, true for True."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return _Unfit(str(value), "a label")  # as pandas writes a cell that nobody filled
        case int() | float():
            return str(value).removesuffix(".0")
    return _Unfit(_kind(value), "a label")


def _label(value: Any) -> str | _Unfit:
    """A label as it is written. Nothing but spaces is none: so a table has a row that nobody labelled."""
    found = _written(value)
    return _Unfit("an empty text", "a label") if isinstance(found, str) and not found.strip() else found


def _list_of(read: Any, wanted: str) -> Any:
    def read_list(value: Any) -> list[str] | _Unfit:
        if not isinstance(value, list):
            return _Unfit(_kind(value), f"a list of {wanted}")
        parts = [read(part) for part in value]
        bad = next((part for part in parts if isinstance(part, _Unfit)), None)
        return parts if bad is None else _Unfit(f"a list with {bad.found}", f"a list of {wanted}")

    return read_list


def _messages(value: Any) -> list[dict[str, Any]] | _Unfit:
    """The messages of a conversation, as mappings."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return [dict(part) for part in value]
    return _Unfit(_kind(value), "a list of messages")


_READERS: dict[str, Any] = {
    "text": _text,
    "label": _label,
    "texts": _list_of(lambda part: part if isinstance(part, str) else _Unfit(_kind(part), "text"), "texts"),
    "labels": _list_of(_label, "labels"),
    "messages": _messages,
    "references": lambda value: [value] if isinstance(value, str) else _READERS["texts"](value),
}


def _texts(value: Any) -> Iterable[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _half_character(value: Any) -> str:
    """Where a text cannot be written as UTF-8; empty if it can."""
    for text in _texts(value):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                return f"character {error.start}"
    return ""

"""A name in a recipe, and the value of a record that it means: a column, a path into one, or a template of several."""

import re
from collections.abc import Mapping
from typing import Any

from tfkit.data.columns.forms import Unfit, read_literal, read_text

MISSING = object()
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def columns_of(name: str) -> list[str]:
    """Return the columns of a template, or the one that is named."""
    return [match[1] for match in _PLACE.finditer(name) if match[1] is not None] if "{" in name else [name]


def value_of(name: str, values: Mapping[str, Any]) -> Any:
    """Return a record's value for one name."""
    return _fill(name, values) if "{" in name else look_up(name, values)


def look_up(name: str, values: Any) -> Any:
    """Return the value of a column, or along a path of keys and list indices."""
    if isinstance(values, Mapping) and name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    if not dot:
        return MISSING if not isinstance(values, list) else _at(values, first)
    inner = _at(values, first) if isinstance(values, list) else values.get(first, MISSING) if isinstance(values, Mapping) else MISSING
    return inner if inner is MISSING else look_up(rest, inner)


def _at(values: list[Any], place: str) -> Any:
    return values[int(place)] if place.isdecimal() and int(place) < len(values) else MISSING


def _fill(template: str, values: Mapping[str, Any]) -> Any:
    """Return the text of a template; missing if one of its columns is, and the column's value if it is not text."""
    parts, end = [], 0
    for match in _PLACE.finditer(template):
        parts.append(template[end : match.start()])
        end = match.end()
        if match[1] is None:
            parts.append(match[0][0])
            continue
        found = look_up(match[1], values)
        if found is MISSING:
            return MISSING
        text = read_text(found) if isinstance(found, list) else read_literal(found)
        if isinstance(text, Unfit):
            return found
        parts.append(text)
    return "".join([*parts, template[end:]])

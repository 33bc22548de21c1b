"""Column names in recipes and data: aliases, paths into nested values, and templates of several columns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tfkit.data.columns.forms import Unfit, read_literal, read_text
from tfkit.recipe.schema.roles import Role, normalized

MISSING = object()
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # matches, in a template, an escaped brace or a column name in braces


# An alias of a role is a column name that public data sets commonly use for it (`Role.later` in recipe/schema/roles.py). Aliases are only
# recognised in rows without a standard name of the role (`Role.columns`). Case is ignored, and spaces, hyphens and dots are read as _.
@lru_cache(256)
def find_alias(role: Role, names: tuple[str, ...]) -> str | None:
    """Return the column whose name, `normalized`, is a standard name or an alias of a role; None if there is no such column."""
    by_normalized = {normalized(name): name for name in reversed(names)}
    return next((by_normalized[alias] for alias in map(normalized, (*role.columns, *role.later)) if alias in by_normalized), None)


def uses_alias(roles: Sequence[Role], named: Mapping[str, object], names: Iterable[str]) -> bool:
    """Whether a required role is read from an alias: only then may optional roles be read from aliases, too. `named`: the
    roles whose columns the recipe names; `names`: the columns of a record.
    """
    names = {*names}
    return any(
        role.required and role.name not in named and names.isdisjoint(role.columns) and find_alias(role, tuple(sorted(names)))
        for role in roles
    )


def columns_of(name: str) -> list[str]:
    """Return the columns, or paths into columns, that a template names; a name that is no template is returned alone in a list."""
    return [match[1] for match in _FIELD.finditer(name) if match[1] is not None] if "{" in name else [name]


def value_of(name: str, values: Mapping[str, Any]) -> Any:
    """Return a record's value for a name: a column, a path into a column, or a template. MISSING if a named column or path is missing."""
    return _fill(name, values) if "{" in name else look_up(name, values)


def look_up(name: str, values: Any) -> Any:
    """Return the value of a column, or the value at a dotted path of keys and list indices. MISSING if there is no such value."""
    if isinstance(values, Mapping) and name in values:
        return values[name]
    first, dot, rest = name.partition(".")
    if not dot:
        return MISSING if not isinstance(values, list) else _at(values, first)
    inner = _at(values, first) if isinstance(values, list) else values.get(first, MISSING) if isinstance(values, Mapping) else MISSING
    return inner if inner is MISSING else look_up(rest, inner)


def _at(values: list[Any], index: str) -> Any:
    return values[int(index)] if index.isdecimal() and int(index) < len(values) else MISSING


def _fill(template: str, values: Mapping[str, Any]) -> Any:
    """Return a template filled with the values of a record; MISSING if the record lacks a column of the template. If a value
    cannot be written as text, return this value instead of the filled template, so that the role's reader (forms.py) rejects it.
    """
    parts, end = [], 0
    for match in _FIELD.finditer(template):
        parts.append(template[end : match.start()])
        end = match.end()
        if match[1] is None:
            parts.append(match[0][0])
            continue
        value = look_up(match[1], values)
        if value is MISSING:
            return MISSING
        text = read_text(value) if isinstance(value, list) else read_literal(value)
        if isinstance(text, Unfit):
            return value
        parts.append(text)
    return "".join([*parts, template[end:]])

"""Aliases of columns: names in common public data sets, recognised in any case if a row has none of a role's standard names.

A role's standard names (`columns` in recipe/schema/roles.py) take precedence, so that rows are read as in earlier versions.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from tfkit.recipe.schema.roles import Role


def normalized(name: str) -> str:
    """Return a column's name in the form in which names are compared: in lower case, with _ for spaces, hyphens and dots."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


def find_alias(role: Role, names: Iterable[str]) -> str | None:
    """Return the column that is an alias of a role, or a standard name of it in another case; None if there is none."""
    return _find_alias(role, tuple(names))


@lru_cache(256)
def _find_alias(role: Role, names: tuple[str, ...]) -> str | None:
    by_normalized = {normalized(name): name for name in reversed(names)}
    return next((by_normalized[alias] for alias in map(normalized, (*role.columns, *role.later)) if alias in by_normalized), None)


def uses_alias(roles: Sequence[Role], named: Mapping[str, object], names: Iterable[str]) -> bool:
    """Whether a required role is read from an alias; optional roles may then be read from aliases, too."""
    names = {*names}
    return any(
        role.required and role.name not in named and names.isdisjoint(role.columns) and find_alias(role, tuple(sorted(names)))
        for role in roles
    )

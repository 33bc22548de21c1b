"""Columns that are recognised by the names of frequent public data sets, in any case, where a row has none of a role's first names.

The first names of a role (recipe/schema/roles.py) go before these, so that rows which an earlier version read are read as then.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from tfkit.recipe.schema.roles import Role


def normalized(name: str) -> str:
    """Return the name of a column as it is compared: in lower case, with _ for spaces, hyphens and dots."""
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


def later_column(role: Role, names: Iterable[str]) -> str | None:
    """Return the column of a role by its later names, or by its first ones in another case; None if there is none."""
    return _later_column(role, tuple(names))


@lru_cache(256)
def _later_column(role: Role, names: tuple[str, ...]) -> str | None:
    found = {normalized(name): name for name in reversed(names)}
    return next((found[wanted] for wanted in map(normalized, (*role.columns, *role.later)) if wanted in found), None)


def reads_later(roles: Sequence[Role], named: Mapping[str, object], names: Iterable[str]) -> bool:
    """Whether a role that every row must have is read by a later name: then optional ones may be, too."""
    names = {*names}
    return any(
        role.required and role.name not in named and names.isdisjoint(role.columns) and later_column(role, tuple(sorted(names)))
        for role in roles
    )

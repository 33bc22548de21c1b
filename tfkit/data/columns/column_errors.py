"""The errors of records whose columns do not give a row: what is missing or does not fit, what was found, and how to name it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import Unfit
from tfkit.data.columns.rows import BadRow
from tfkit.recipe.schema.roles import Role

_MOST_NAMES = 20


def no_column(
    role: Role, names: Sequence[str], found: Mapping[str, Any], place: str, *, all_of_them: bool, template: str | None, remedy: str
) -> BadRow:
    """Error for a record without the columns `names` of a role, all or any of which it needs; `template`: the one that names them.

    `remedy`: how the recipe names a column for the role.
    """
    wanted = (" and " if all_of_them else " or ").join(map(repr, names))
    for_template = "" if template is None else f" for the {role.name} {template!r}"
    return BadRow(
        f"no column {wanted}",
        f"{place}: no column {wanted}{for_template}; columns found: {_listed(found)}; "
        f"name the one that holds the {role.name} with {remedy}",
    )


def no_shape(shapes: Iterable[Sequence[Role]], found: Mapping[str, Any], place: str) -> BadRow:
    """Error for a record that has the columns of no shape."""
    needed = [[role.name for role in roles if role.required] for roles in shapes]
    wanted = ", nor for ".join(" and ".join(names) for names in needed)
    remedies = " or ".join("columns: {" + ", ".join(f"{name}: NAME" for name in names) + "}" for names in needed)
    return BadRow(
        f"no columns for {wanted}", f"{place}: no columns for {wanted}; columns found: {_listed(found)}; name them with {remedies}"
    )


def unfit(value: Unfit, column: str, place: str, remedy: str) -> BadRow:
    """Error for a record whose column holds another kind of value than its role needs."""
    return BadRow(
        f"{value.found}, not {value.wanted}",
        f"{place}: column {column!r} holds {value.found}, not {value.wanted}; name another column with {remedy}, remove the row",
    )


def _listed(found: Mapping[str, Any]) -> str:
    """Return the names of columns, the first ones of many."""
    return ", ".join(map(str, list(found)[:_MOST_NAMES])) + (", ..." if len(found) > _MOST_NAMES else "") or "none"

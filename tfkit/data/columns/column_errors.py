"""Errors for records whose columns do not make a row: the missing or unfit column, the columns found, and how to name the right one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfkit.data.columns.forms import Unfit
from tfkit.data.columns.rows import BadRow
from tfkit.recipe.schema.roles import Role

_MAX_NAMES = 20


def no_column(
    role: Role, names: Sequence[str], available: Mapping[str, Any], place: str, *, all_of_them: bool, template: str | None, remedy: str
) -> BadRow:
    """Error for a record without a role's columns `names`, of which it needs all (`all_of_them`) or any.

    `template`: the template in the recipe that uses these columns. `remedy`: how the recipe names a column for the role.
    """
    wanted = (" and " if all_of_them else " or ").join(map(repr, names))
    for_template = "" if template is None else f" for the {role.name} {template!r}"
    return BadRow(
        f"no column {wanted}",
        f"{place}: no column {wanted}{for_template}; columns found: {_list_names(available)}; "
        f"name the one that holds the {role.name} with {remedy}",
    )


def no_shape(shapes: Iterable[Sequence[Role]], available: Mapping[str, Any], place: str) -> BadRow:
    """Error for a record whose columns match none of the shapes."""
    needed = [[role.name for role in roles if role.required] for roles in shapes]
    wanted = ", nor for ".join(" and ".join(names) for names in needed)
    remedies = " or ".join("columns: {" + ", ".join(f"{name}: NAME" for name in names) + "}" for names in needed)
    return BadRow(
        f"no columns for {wanted}", f"{place}: no columns for {wanted}; columns found: {_list_names(available)}; name them with {remedies}"
    )


def unfit(value: Unfit, column: str, place: str, remedy: str) -> BadRow:
    """Error for a record whose column holds a value of the wrong kind for its role."""
    return BadRow(
        f"{value.found}, not {value.wanted}",
        f"{place}: column {column!r} holds {value.found}, not {value.wanted}; name another column with {remedy}, remove the row",
    )


def _list_names(available: Mapping[str, Any]) -> str:
    """Return the names of the available columns, at most `_MAX_NAMES`."""
    return ", ".join(map(str, list(available)[:_MAX_NAMES])) + (", ..." if len(available) > _MAX_NAMES else "") or "none"

"""The shapes that the rows of a source may have, such as a conversation or an exchange: each is a few roles."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.recipe.schema.roles import Role


def shapes_of(roles: Sequence[Role], named: Mapping[str, object]) -> list[tuple[Role, ...]]:
    """Return the roles of each shape that rows may have; only one if a recipe names its columns. Empty if all rows have one shape."""
    by_shape: dict[str, list[Role]] = {}
    for role in roles:
        if role.shape is not None:
            by_shape.setdefault(role.shape, []).append(role)
    chosen = [shape for shape, its_roles in by_shape.items() if any(role.name in named for role in its_roles)]
    return [tuple(by_shape[shape]) for shape in chosen or by_shape]


def roles_of_shape(roles: Sequence[Role], named: Mapping[str, object], has: Callable[[Role], bool]) -> tuple[Role, ...] | None:
    """Return the roles of a row: of the first shape whose columns it has, and those of all rows. None if it has no shape."""
    shapes = shapes_of(roles, named)
    if not shapes:
        return tuple(roles)
    found = next((shape for shape in shapes if all(has(role) for role in shape if role.required)), None)
    return None if found is None else tuple(role for role in roles if role.shape is None or role in found)

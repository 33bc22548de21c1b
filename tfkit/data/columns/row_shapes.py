"""The shapes that rows may have, such as a conversation or a prompt with its completion. A shape is a set of roles."""

from collections.abc import Callable, Mapping, Sequence

from tfkit.recipe.schema.roles import Role


def shapes_of(roles: Sequence[Role], named: Mapping[str, object]) -> list[tuple[Role, ...]]:
    """Return the roles of each shape; only of the shapes whose columns the recipe names, if it names any. Empty if roles have no shapes."""
    by_shape: dict[str, list[Role]] = {}
    for role in roles:
        if role.shape is not None:
            by_shape.setdefault(role.shape, []).append(role)
    chosen = [shape for shape, members in by_shape.items() if any(role.name in named for role in members)]
    return [tuple(by_shape[shape]) for shape in chosen or by_shape]


def roles_of_shape(roles: Sequence[Role], named: Mapping[str, object], has: Callable[[Role], bool]) -> tuple[Role, ...] | None:
    """Return a row's roles: those of the first shape whose required columns it has, and those outside any shape. None if no shape fits."""
    shapes = shapes_of(roles, named)
    if not shapes:
        return tuple(roles)
    match = next((shape for shape in shapes if all(has(role) for role in shape if role.required)), None)
    return None if match is None else tuple(role for role in roles if role.shape is None or role in match)

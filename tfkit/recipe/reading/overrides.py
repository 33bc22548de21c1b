"""Overrides: changes to a recipe, as a mapping from dotted names to values. A later override replaces what earlier ones set."""

import json
from collections import abc
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Any

from tfkit.recipe.reading.parse import MAX_DEPTH, parse
from tfkit.recipe.reading.problems import Problem, RecipeError, cut, quoted
from tfkit.recipe.reading.tree import OVERRIDES, Mapping, Node, Path, Scalar, Sequence, child, dotted, plain, tree_of
from tfkit.recipe.schema.sections import LENGTHS, Recipe

Overrides = abc.Mapping[str, Any]
NO_OVERRIDES: Overrides = MappingProxyType({})
LENGTH = tuple(f"training.{name}" for name in LENGTHS)


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return the overrides in arguments key=value, whose values are YAML. Raises RecipeError with the problems of all arguments."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        name = key.strip()
        if not equals or not all(name.split(".")):
            problems.append(Problem(OVERRIDES, (), f"{quoted(word)} is not key=value, such as training.steps=100"))
            continue
        try:
            value, wrong = parse_value(text)
        except RecipeError as error:
            problems += [Problem(OVERRIDES, tuple(name.split(".")), problem.message) for problem in error.problems]
            continue
        problems += [Problem(OVERRIDES, (*name.split("."), *problem.path), problem.message) for problem in wrong]
        found.pop(name, None)
        found[name] = value
    if problems:
        raise RecipeError(problems)
    return found


def parse_value(text: str) -> tuple[Any, list[Problem]]:
    """Return the value of a YAML text, and its problems. Raises RecipeError if the text is not YAML."""
    node, problems = parse(text, str(OVERRIDES), OVERRIDES)
    return (None if node is None else plain(node)), problems


def plain_value(value: Any) -> Any:
    """Return a value as a recipe holds it: a tuple as a list, a path as a text. Raises ValueError for a value that no recipe can hold."""
    return plain(tree_of(value, MAX_DEPTH))


def scored_overrides(columns: Overrides, overrides: Overrides, rows: int | None = None) -> dict[str, Any]:
    """Return `overrides`, and overrides for the rows to score: the column of each role, and the number of rows to draw (None: all)."""
    named = ({"data.validation.0.columns": dict(columns)} if columns else {}) | ({} if rows is None else {"data.rows": rows})
    return within_sections(named, overrides)


def within_sections(named: Overrides, overrides: Overrides) -> dict[str, Any]:
    """Return `overrides` together with `named`, the overrides that a command's options imply.

    The `named` overrides come first; but if one of `overrides` replaces a section that contains a named field, as `data={...}` contains
    `data.rows`, the named ones come after this override, which would otherwise remove them.
    """
    given = [*overrides.items()]
    sections = [
        number for number, (key, _) in enumerate(given, 1) if key not in named and any(name.startswith(f"{key}.") for name in named)
    ]
    first = max(sections, default=0)
    return followed_by(dict(given[:first]), named) | dict(given[first:])


def assignment(name: str, value: Any) -> str:
    """Return an override as text, name=value, for a message."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def followed_by(overrides: Overrides, later: Overrides) -> dict[str, Any]:
    """Return the overrides followed by the `later` ones, which replace overrides of the same names."""
    return {name: value for name, value in overrides.items() if name not in later} | dict(later)


def apply_overrides(root: Mapping, overrides: Overrides) -> list[Problem]:
    """Apply the overrides in order; return the problems of those that cannot be applied. Unknown fields are left to the validation."""
    problems: list[Problem] = []
    section = overrides.get("optimizer")
    if "optimizer.lr" in overrides or (isinstance(section, dict) and "lr" in section):
        # the user chooses this rate, so the recipe's trial rates are dropped; the overrides below may set others
        _drop(root, {"trial_rates"})
    for name, value in overrides.items():
        try:
            _apply(root, name, value)
        except RecipeError as error:
            problems += error.problems
    return problems


def given_sections(overrides: Overrides) -> dict[str, dict[str, Any]]:
    """Return the sections that the overrides make up without a recipe. Raises RecipeError if an override cannot be applied."""
    tree = Mapping(OVERRIDES)
    if problems := apply_overrides(tree, overrides):
        raise RecipeError(problems)
    return {name: section for name, section in plain(tree).items() if isinstance(section, dict)}


def _apply(root: Mapping, name: str, value: Any) -> None:
    steps = name.split(".")
    if not all(steps):
        raise _error((), f"{quoted(name)} is not the name of a field, such as training.steps")
    if len(steps) > MAX_DEPTH:
        raise _error(tuple(steps), f"more than {MAX_DEPTH} levels deep, which no recipe is")
    try:
        node = tree_of(value, MAX_DEPTH)
    except ValueError as error:
        raise _error(tuple(steps), str(error)) from None
    _set(root, steps, node)
    if name in LENGTH and value is not None:
        _drop(root, {*LENGTHS} - {steps[1]})


def _set(root: Mapping, steps: list[str], value: Node) -> None:
    node: Node = root
    path: Path = ()
    for name in steps[:-1]:
        step = _step(node, name, path)
        path = (*path, step)
        inner = child(node, step)
        if inner is None or (isinstance(inner, Scalar) and inner.value is None):
            inner = Mapping(OVERRIDES)
            _put(node, step, inner)
        node = inner
    _put(node, _step(node, steps[-1], path), value)


def _drop(root: Mapping, names: Iterable[str]) -> None:
    """Remove fields of `training` from the tree, because an override replaces them: the length in other units, or the trial rates."""
    training = root.values.get("training")
    if not isinstance(training, Mapping):
        return
    for name in names:
        training.values.pop(name, None)
        training.keys.pop(name, None)


def _step(node: Node, name: str, path: Path) -> str | int:
    """Return `name` as a key of the section `node` or an index of the list `node`. Raises RecipeError for a scalar or a wrong index."""
    if isinstance(node, Scalar):
        shown = cut(json.dumps(node.value, ensure_ascii=False), 60)
        raise _error(path, f"is {shown}, which has no part {quoted(name)}; give the whole: {dotted(path)}={{...}}")
    if isinstance(node, Mapping):
        return name
    if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < len(node.items)):
        count = len(node.items)
        entries = f"has the entries 0 to {count - 1}" if count > 1 else "has only the entry 0" if count else "is empty"
        raise _error((*path, name), f"there is no such entry: {dotted(path)} {entries}")
    return int(name)


def _put(node: Node, step: str | int, value: Node) -> None:
    if isinstance(node, Mapping):
        node.set(str(step), value, OVERRIDES)
    elif isinstance(node, Sequence):
        node.items[int(step)] = value


def _error(path: Path, message: str) -> RecipeError:
    return RecipeError([Problem(OVERRIDES, path, message)])


# tfkit 0.1 wrote the recipe of each run with all fields of that version. When such a recipe is read, the later field
# data.split_by is added, with the value by which 0.1 split rows.


_DATA_0_1 = {"train", "validation", "on_bad_row", "max_lost", "length_groups"}  # all fields of the section `data` in version 0.1


def add_later_fields(recipe: Mapping) -> None:
    """Add the field data.split_by to a recipe of a run of tfkit 0.1; leave any other recipe unchanged."""
    data = recipe.values.get("data")
    if isinstance(data, Mapping) and data.values.keys() == _DATA_0_1:
        data.set("split_by", Scalar(data.place, "row"), data.place)


def split_overrides(begun: Recipe, written: Collection[str]) -> dict[str, Any]:
    """Return data.split_by of the earlier run's recipe `begun` as an override; empty if `written`, the new recipe's fields, has it."""
    return {} if "data.split_by" in written else {"data.split_by": begun.data.split_by}

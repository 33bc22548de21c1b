"""key=value: the one way to change a recipe from the command line. A dotted path, a YAML value; the last one wins."""

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Arguments
from typing import Any

from tfkit.recipe.reading.parse import MAX_DEPTH, parse
from tfkit.recipe.reading.problems import Problem, RecipeError, quoted
from tfkit.recipe.reading.tree import COMMAND_LINE, Mapping, Node, Path, Scalar, Sequence, child, dotted, plain
from tfkit.recipe.schema.sections import LENGTHS, Recipe

LENGTH = tuple(f"training.{name}" for name in LENGTHS)


def apply_overrides(root: Mapping, overrides: Arguments[str]) -> list[Problem]:
    """Apply each override to the tree in turn; return a problem for each that cannot be applied. The schema rejects unknown fields."""
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(root, override)
        except RecipeError as error:
            problems += error.problems
    return problems


def given_sections(overrides: Arguments[str]) -> dict[str, dict[str, Any]]:
    """Return the overrides as an incomplete recipe, by section. Raises RecipeError."""
    tree = Mapping(COMMAND_LINE)
    if problems := apply_overrides(tree, overrides):
        raise RecipeError(problems)
    return {name: section for name, section in plain(tree).items() if isinstance(section, dict)}


def _apply(root: Mapping, override: str) -> None:
    name, equals, text = override.partition("=")
    steps = name.strip().split(".")
    if not equals or not all(steps):
        raise _error((), f"{quoted(override)} is not key=value, such as training.steps=100")
    if len(steps) > MAX_DEPTH:
        raise _error(tuple(steps), f"more than {MAX_DEPTH} levels deep, which no recipe is")
    try:
        value, problems = parse(text, str(COMMAND_LINE), COMMAND_LINE)
    except RecipeError as error:
        raise RecipeError(Problem(COMMAND_LINE, tuple(steps), problem.message) for problem in error.problems) from None
    if problems:
        raise RecipeError(Problem(COMMAND_LINE, (*steps, *problem.path), problem.message) for problem in problems)
    _set(root, steps, value or Scalar(COMMAND_LINE, None, ""))
    if name.strip() in LENGTH and text.strip() not in ("", "null", "~"):
        _drop(root, {*LENGTHS} - {steps[1]})
    if name.strip() == "optimizer.lr":
        _drop(root, {"trial_rates"})


def _set(root: Mapping, steps: list[str], value: Node) -> None:
    node: Node = root
    path: Path = ()
    for name in steps[:-1]:
        step = _step(node, name, path)
        path = (*path, step)
        inner = child(node, step)
        if inner is None or (isinstance(inner, Scalar) and inner.value is None):
            inner = Mapping(COMMAND_LINE)
            _put(node, step, inner)
        node = inner
    _put(node, _step(node, steps[-1], path), value)


def _drop(root: Mapping, names: Iterable[str]) -> None:
    """Remove fields of `training` that an override replaces: the length in other units, or rates to try beside the given one."""
    training = root.values.get("training")
    if not isinstance(training, Mapping):
        return
    for name in names:
        training.values.pop(name, None)
        training.keys.pop(name, None)


def _step(node: Node, name: str, path: Path) -> str | int:
    """Return a key of a section, or an existing index of a list."""
    if isinstance(node, Scalar):
        raise _error(path, f"is {node.text}, which has no part {quoted(name)}; give the whole: {dotted(path)}={{...}}")
    if isinstance(node, Mapping):
        return name
    if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < len(node.items)):
        count = len(node.items)
        entries = f"has the entries 0 to {count - 1}" if count > 1 else "has only the entry 0" if count else "is empty"
        raise _error((*path, name), f"there is no such entry: {dotted(path)} {entries}")
    return int(name)


def _put(node: Node, step: str | int, value: Node) -> None:
    if isinstance(node, Mapping):
        node.set(str(step), value, COMMAND_LINE)
    elif isinstance(node, Sequence):
        node.items[int(step)] = value


def _error(path: Path, message: str) -> RecipeError:
    return RecipeError([Problem(COMMAND_LINE, path, message)])


# Recipes that an earlier version wrote with all of its fields, as for every run: later fields get the values that it implied.


_DATA_0_1 = {"train", "validation", "on_bad_row", "max_lost", "length_groups"}  # all fields of the section then


def add_later_fields(recipe: Mapping) -> None:
    """Add the fields of later versions to a recipe that has every field of its own version."""
    data = recipe.values.get("data")
    if isinstance(data, Mapping) and data.values.keys() == _DATA_0_1:
        data.set("split_by", Scalar(data.place, "row", "row"), data.place)


def split_overrides(begun: Recipe, written: Collection[str]) -> list[str]:
    """Return the overrides that make a recipe with these written fields split its rows as the run `begun`, unless it sets the split."""
    return [] if "data.split_by" in written else [f"data.split_by={begun.data.split_by}"]

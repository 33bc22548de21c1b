"""key=value: the one way to change a recipe from the command line. A dotted path, a YAML value; the last one wins."""

from collections.abc import Iterable
from collections.abc import Sequence as Arguments

from tfkit.recipe.reading.parse import MAX_DEPTH, parse
from tfkit.recipe.reading.problems import Problem, RecipeError, quoted
from tfkit.recipe.reading.tree import COMMAND_LINE, Mapping, Node, Path, Scalar, Sequence, child, dotted
from tfkit.recipe.schema.sections import LENGTHS

LENGTH = tuple(f"training.{name}" for name in LENGTHS)


def apply_overrides(root: Mapping, overrides: Arguments[str]) -> list[Problem]:
    """Change the tree by each override in turn; return those that cannot be applied as problems. The schema rejects unknown fields."""
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(root, override)
        except RecipeError as error:
            problems += error.problems
    return problems


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
    here: Node = root
    path: Path = ()
    for name in steps[:-1]:
        step = _step(here, name, path)
        path = (*path, step)
        reached = child(here, step)
        if reached is None or (isinstance(reached, Scalar) and reached.value is None):
            reached = Mapping(COMMAND_LINE)
            _put(here, step, reached)
        here = reached
    _put(here, _step(here, steps[-1], path), value)


def _drop(root: Mapping, names: Iterable[str]) -> None:
    """Remove fields of `training` that what was just given replaces: a length in other units, rates to try beside the one that is given."""
    training = root.values.get("training")
    if not isinstance(training, Mapping):
        return
    for name in names:
        training.values.pop(name, None)
        training.keys.pop(name, None)


def _step(here: Node, name: str, path: Path) -> str | int:
    """Return a key of a section, or an existing index of a list."""
    if isinstance(here, Scalar):
        raise _error(path, f"is {here.text}, which has no part {quoted(name)}; give the whole: {dotted(path)}={{...}}")
    if isinstance(here, Mapping):
        return name
    if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < len(here.items)):
        count = len(here.items)
        entries = f"has the entries 0 to {count - 1}" if count > 1 else "has only the entry 0" if count else "is empty"
        raise _error((*path, name), f"there is no such entry: {dotted(path)} {entries}")
    return int(name)


def _put(here: Node, step: str | int, value: Node) -> None:
    if isinstance(here, Mapping):
        here.set(str(step), value, COMMAND_LINE)
    elif isinstance(here, Sequence):
        here.items[int(step)] = value


def _error(path: Path, message: str) -> RecipeError:
    return RecipeError([Problem(COMMAND_LINE, path, message)])

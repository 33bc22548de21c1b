"""Convert the arguments of the library's functions, such as `tfkit.pretrain`. A value of a wrong type raises UsageError."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tfkit.errors import UsageError, argument
from tfkit.recipe import Recipe, RecipeText, open_recipe
from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.recipe.reading.overrides import plain_value

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
Prompts = str | Sequence[str] | Sequence[Sequence[Mapping[str, Any]]] | Sequence[Mapping[str, Any]]  # texts or conversations
_WHAT_TO_GIVE = {
    "start": "give its folder, as result.checkpoint is one",
    "path": "give its folder, as result.checkpoint is one",
    "data": "write its rows into a file, and give that",
    "run": "give its folder, as result.run is one",
    "out": "give a folder that does not exist yet",
}


def recipe_text(recipe: AnyRecipe) -> RecipeText:
    """Return the text of a recipe that is given in any form: a name, a path, a dict or a Recipe."""
    if isinstance(recipe, str | Path):
        return open_recipe(str(recipe))
    if not isinstance(recipe, Recipe | Mapping):
        raise UsageError(f"recipe={recipe!r}: give a recipe's name, its path, a dict or a Recipe")
    try:
        document = recipe_document(recipe, None) if isinstance(recipe, Recipe) else plain_value(recipe)
    except ValueError as error:
        raise UsageError(f"the recipe holds a value that YAML does not have: {error}") from error
    return RecipeText(Path("<recipe>"), dump_document(document))  # a name for messages: there is no file


def path_text(name: str, path: object) -> str | None:
    """Return `path`, the value of the argument `name`, as text; None stays None. Raises UsageError for any other type, such as a table."""
    if not isinstance(path, str | PathLike | None):
        raise UsageError(f"{argument(name)} is a path, and this is a {type(path).__name__}; {_WHAT_TO_GIVE[name]}")
    return None if path is None else str(path)


def required_path(name: str, path: object) -> str:
    """Return `path`, the value of the required argument `name`, as text. Raises UsageError if it is missing or of another type."""
    found = path_text(name, path)
    if not found:
        raise UsageError(f"{argument(name)} is missing; {_WHAT_TO_GIVE[name]}")
    return found


def run_folder(run: str | Path | None, name: str) -> Path:
    """Return the run folder of a call: `run` or, if that is None, the folder `name` in runs/."""
    return Path(path_text("run", run) or Path("runs") / name)


def stage_names(stages: str | Sequence[str]) -> tuple[str, ...]:
    """Return `stages`, one name of a stage or several, as a tuple of names. Raises UsageError for a value that is not iterable."""
    if not isinstance(stages, Iterable):
        raise UsageError(f"stages={stages!r}: give a list of the names of stages")
    return (stages,) if isinstance(stages, str) else tuple(stages)


def plain_overrides(overrides: object) -> dict[str, Any]:
    """Return the overrides of a call with values of YAML's types. Raises UsageError for anything but None or a dict of such values."""
    if not isinstance(overrides, Mapping | None):
        raise UsageError(f"overrides={overrides!r}: give a dict of dotted names, such as {{'training.steps': 200}}")
    found = {}
    for name, value in (overrides or {}).items():
        try:
            found[str(name)] = plain_value(value)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
    return found


def plain_columns(columns: object) -> dict[str, Any]:
    """Return a call's columns, by role (such as "text"), with values of YAML's types. Raises UsageError for anything but a dict or None."""
    if not isinstance(columns, Mapping | None):
        raise UsageError(f"columns={columns!r}: give a dict with the column of each role, such as {{'text': 'question'}}")
    return plain_overrides(columns)


def require_iterable(given: object, call: str, remedy: str) -> Iterable[Any]:
    """Return `given`, which must be iterable. Raises UsageError, whose message begins with `call` and ends with `remedy`, for any other
    value, and for a table such as a DataFrame, which iterates over the names of its columns instead of its rows.
    """
    if not isinstance(given, Iterable) or hasattr(given, "columns"):
        raise UsageError(f"{call}, and this is of type {type(given).__name__}; give {remedy}")
    return given

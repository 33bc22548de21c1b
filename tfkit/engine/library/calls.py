"""The arguments and interrupts of a call of the library: Ctrl-C is deferred, a recipe has several forms, and overrides are a dict."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tfkit.errors import Stopped, UsageError
from tfkit.recipe import Recipe, RecipeText, open_recipe
from tfkit.recipe.dump import dump_document, recipe_document
from tfkit.run.signals import StopSignals

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
Overrides = Mapping[str, Any] | None
ShouldStop = Callable[[], bool] | None


class Interrupts(StopSignals):
    """A stop request by Ctrl-C, which is deferred until nothing is lost, or by the caller's callable. A third Ctrl-C is not deferred."""

    def __init__(self, asked: Callable[[], bool]):
        super().__init__(("SIGINT",))
        self._asked = asked

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed, or the callable says so."""
        return super().should_stop() or self._asked()

    def raise_if_requested(self, message: str = "nothing was lost") -> None:
        """Raise Stopped if the computation should stop."""
        super().raise_if_requested(message)
        if self._asked():
            raise Stopped(f"stopped: {message}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._count == 2:  # a third signal kills a command, and would kill a notebook's kernel
            raise KeyboardInterrupt
        super()._handle(number, frame)


@contextmanager
def interrupts(should_stop: ShouldStop) -> Iterator[Interrupts]:
    """Defer Ctrl-C in the block, and raise KeyboardInterrupt after it, in place of the Stopped that Ctrl-C causes."""
    with Interrupts(should_stop or (lambda: False)) as stop:
        try:
            yield stop
        except Stopped:
            if stop.requested is None:
                raise
    if stop.requested is not None:  # also if it came too late to stop anything
        raise KeyboardInterrupt


def recipe_text(recipe: AnyRecipe) -> RecipeText:
    """Return the text of a recipe in any of its forms. Raises UsageError."""
    if isinstance(recipe, str | Path):
        return open_recipe(str(recipe))
    if not isinstance(recipe, Recipe | Mapping):
        raise UsageError(f"recipe={recipe!r}: give a recipe's name, its path, a dict or a Recipe")
    document = recipe_document(recipe, None) if isinstance(recipe, Recipe) else dict(recipe)
    try:
        return RecipeText(Path("<recipe>"), dump_document(document))  # no file has this name
    except Exception as error:  # of the YAML library: a value that a recipe cannot hold
        raise UsageError(f"the recipe holds a value that YAML does not have: {error}") from error


def words_of(overrides: Overrides) -> list[str]:
    """Return overrides as key=value. Raises UsageError."""
    if overrides is not None and not isinstance(overrides, Mapping):
        raise UsageError(f"overrides={overrides!r}: give a dict of dotted names, such as {{'training.steps': 200}}")
    return [word(name, value) for name, value in (overrides or {}).items()]


def several(name: str, values: str | Sequence[Any]) -> str:
    """Return several values of a field, or a range given as text, as the key=value of a sweep. Raises UsageError for a single value."""
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise UsageError(
            f"{name}: a single value cannot be varied in a sweep; give a list, or put it into the overrides, which all trials share"
        )
    return f"{name}={values}" if isinstance(values, str) else f"{name}=" + ",".join(word("", value)[1:] for value in values)


def word(name: str, value: Any) -> str:
    """Return a value as key=value. Raises UsageError."""
    try:
        return f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
    except ValueError as error:
        raise UsageError(f"{name}: a value that a recipe cannot hold: {error}") from error

"""tfkit recipes: the bundled recipes, or the text of one."""

import sys
import textwrap
from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the bundled recipes with what each is for, or print one, to copy and change."""
    from tfkit.recipe import bundled_recipes

    if name is not None:
        _print_one(name, json)
        return
    every = bundled_recipes()
    if json:
        listed = [{"name": recipe.name, "path": str(recipe.path), "summary": recipe.summary} for recipe in every]
        console.json({"schema_version": 1, "recipes": listed})
        return
    width = max((len(recipe.name) for recipe in every), default=0)
    room = (console.result_columns() or sys.maxsize) - width - 2
    for recipe in every:
        first, *rest = textwrap.wrap(recipe.summary, max(room, 20), break_on_hyphens=False) or [""]
        console.result(f"{recipe.name:{width}}  {first}".rstrip())
        for line in rest:
            console.result(" " * (width + 2) + line)


def _print_one(name: str, json: bool) -> None:
    from tfkit.errors import UsageError
    from tfkit.recipe.bundled import bundled_recipes, find_bundled

    recipe = find_bundled(name)
    if recipe is None:
        names = ", ".join(recipe.name for recipe in bundled_recipes())
        raise UsageError(f"{name}: no bundled recipe has this name; there are {names}")
    text = recipe.path.read_text(encoding="utf-8")
    if json:
        console.json({"schema_version": 1, "name": recipe.name, "path": str(recipe.path), "summary": recipe.summary, "text": text})
    else:
        console.result(text.rstrip("\n"))

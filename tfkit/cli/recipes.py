"""The command tfkit recipes, which lists the bundled recipes, prints one of them, or downloads the public data of one."""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show
from tfkit.errors import UsageError
from tfkit.units import format_bytes

if TYPE_CHECKING:
    from tfkit.recipe import BundledRecipe

EXAMPLES = (
    "tfkit recipes",
    "tfkit recipes gpt2-stdlib > mine.yaml",
    "tfkit recipes banking77 --fetch",
)


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this recipe.", autocompletion=options.recipe_names)] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the recipe's public data to the paths that it names.")] = False,
    json: options.Json = False,
) -> None:
    """List the bundled recipes with a summary of each, or print one, to copy and change.

    With --fetch, the data of a recipe are downloaded below the current folder, as data/..., and each file is checked against its hash. An
    interrupted download continues where it ended.
    """
    from tfkit.recipe.bundled import bundled_recipes, find_bundled

    bundled = bundled_recipes()
    if name is not None:
        if (recipe := find_bundled(name)) is None:
            raise UsageError(f"{name}: no bundled recipe has this name; the names are {', '.join(one.name for one in bundled)}")
        if fetch:
            return _fetch(recipe, json)
        text = recipe.path.read_text(encoding="utf-8")
        return show({**_about(recipe), "text": text}, lambda _: text.rstrip("\n"), as_json=json)
    if fetch:
        raise UsageError("--fetch: the data of which recipe? Give its NAME; `tfkit recipes` lists them")
    indent = max(len(recipe.name) for recipe in bundled) + 2
    wrap = textwrap.TextWrapper(max(console.result_columns() or sys.maxsize, indent + 20), break_on_hyphens=False)
    wrap.subsequent_indent = " " * indent
    lines = []
    for recipe in bundled:
        wrap.initial_indent = recipe.name.ljust(indent)
        lines += wrap.wrap(recipe.summary)
    show({"recipes": [*map(_about, bundled)]}, lambda _: "\n".join(lines), as_json=json)


def _about(recipe: "BundledRecipe") -> dict[str, Any]:
    return {"name": recipe.name, "path": str(recipe.path), "summary": recipe.summary}


def _fetch(recipe: "BundledRecipe", json: bool) -> None:
    from tfkit.engine.tools.fetching import fetch_files, sets_of

    sets = sets_of(recipe)
    for data_set in sets:
        console.say(f"{data_set.source}, licence: {data_set.licence}")
    fetched = fetch_files(sets, console)
    files = [{"path": file.path, "url": file.url, "hash": file.hash, "fetched": is_new} for file, is_new in fetched]
    sizes = [format_bytes(Path(file.path).stat().st_size) + ("" if is_new else ", already there") for file, is_new in fetched]
    lines = [f"{file['path']}  {size}" for file, size in zip(files, sizes, strict=True)] or [f"{recipe.name} needs no data files"]
    show({"name": recipe.name, "files": files}, lambda _: "\n".join(lines), as_json=json)
    if not json:
        console.say(f"now: {recipe.command}")

"""The command tfkit check, which reports all errors of a recipe together, without importing torch."""

from typing import Annotated

import typer

from tfkit import console
from tfkit.cli import options
from tfkit.cli.results import show
from tfkit.errors import UsageError

EXAMPLES = (
    "tfkit check gpt2-stdlib training.steps=1000",
    "tfkit check mine.yaml --ranks 64 --json",
    "tfkit check --schema > recipe.schema.json",
)


def check(
    recipe: options.OptionalRecipe = None,
    overrides: options.Overrides = None,
    ranks: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Check that the work of a step can be divided among N processes.")
    ] = 1,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of recipes, for editors.")] = False,
    json: options.Json = False,
) -> None:
    """List all errors of a recipe, each with file:line:column, the field and the remedy. Ends with 0 if there are none, else with 2.

    Missing files and folders are errors, too; the Hub is not contacted.
    """
    from tfkit.recipe import RecipeError, json_schema, open_recipe, read_recipes
    from tfkit.recipe.reading.overrides import parse_overrides

    if schema:
        console.json(json_schema())
        return
    if recipe is None:
        raise UsageError("tfkit check: which RECIPE? Give a path or the name of a bundled recipe; `tfkit recipes` lists the names")
    try:
        source = open_recipe(recipe)
        read_recipes(source, parse_overrides(overrides or ()), with_files=True, ranks=ranks)
    except RecipeError as error:
        if json:
            console.json({"schema_version": 1, "recipe": recipe, "valid": False, "errors": error.to_list()}, error)
        raise
    show({"recipe": str(source.path), "valid": True, "errors": []}, lambda _: f"{source.path}: no errors", as_json=json)

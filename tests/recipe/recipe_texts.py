"""Recipes as texts of a file r.yaml, which need not exist: what is read of them, and the lines of their errors."""

from pathlib import Path

from tfkit.recipe import RecipeError, RecipeText
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.schema.sections import Recipe

MINIMAL = """\
model: {preset: gpt2}
data:
  train: [{stdlib: true}]
training: {steps: 10}
"""


def read(text: str, *words: str) -> Recipe:
    return RecipeText(Path("r.yaml"), text).read(parse_overrides(words))


def errors(text: str, *words: str) -> list[str]:
    """Return the lines of the error; none where there is no error."""
    try:
        read(text, *words)
    except RecipeError as error:
        return str(error).splitlines()
    return []

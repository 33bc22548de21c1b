"""Any text is a valid recipe or a UsageError: never another exception. tests/faults has the same by the thousand."""

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from random_recipes import NEARLY, OVERRIDES, RECIPES, as_yaml

from tfkit.errors import UsageError
from tfkit.recipe import dump_recipe, model_config, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides

FOLDER = Path(tempfile.gettempdir(), f"tfkit-random-recipes-{os.getpid()}.yaml")


def judge(content: bytes, overrides: list[str]) -> None:
    FOLDER.write_bytes(content)
    try:
        resolved = read_recipe(str(FOLDER), parse_overrides(overrides))
        config = model_config(resolved.recipe.model, 257)
        FOLDER.write_text(dump_recipe(resolved.recipe, config), encoding="utf-8")
        again = read_recipe(str(FOLDER))
    except UsageError:
        return
    finally:
        FOLDER.unlink(missing_ok=True)
    assert again.recipe.training == resolved.recipe.training


@settings(max_examples=150, deadline=None)
@given(RECIPES | NEARLY, OVERRIDES)
def test_random_recipes(recipe: dict[str, Any], overrides: list[str]) -> None:
    judge(as_yaml(recipe), overrides)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t1.?~<", max_size=30).map(str.encode), OVERRIDES)
def test_random_bytes(content: bytes, overrides: list[str]) -> None:
    judge(content, overrides)

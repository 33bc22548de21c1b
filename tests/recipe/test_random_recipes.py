"""Whatever stands in a recipe, it is a valid recipe or a UsageError: never another exception."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.errors import UsageError
from tfkit.model.config import ModelConfig
from tfkit.recipe import dump_recipe, model_config, read_recipe
from tfkit.recipe.fields import records
from tfkit.recipe.schema import Recipe

FOLDER = Path(tempfile.gettempdir(), f"tfkit-random-recipes-{os.getpid()}.yaml")
KINDS = [
    "adamw",
    "muon",
    "causal_lm",
    "byte_bpe",
    "cosine",
    "wsd",
    "rotary",
    "learned",
    "rms",
    "layer",
    "lm",
    "gelu",
    "gpt2",
    "llama-7b",
    "FRA",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70)
    | st.integers()
    | st.floats()
    | st.sampled_from([*KINDS, "", "3", "\ud83d\ude00"])
    | st.text(max_size=5)
)
NAMES = sorted(
    {name for record in [*records(Recipe), *records(ModelConfig)] for name in record.model_fields} | {"kind", "lr", "eps", "stdlib", "path"}
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def section(annotation: Any) -> st.SearchStrategy[Any]:
    """Values for a field: mostly of the right shape, with right and wrong names and values."""
    inner = list(records(annotation))
    if not inner:
        return SCALARS
    fields = {name: field.annotation for record in inner for name, field in record.model_fields.items()}
    if any("preset" in record.model_fields for record in inner):
        fields |= {name: field.annotation for name, field in ModelConfig.model_fields.items()}
    mapping = st.fixed_dictionaries({}, optional={name: section(inner) for name, inner in fields.items()})
    return mapping | st.lists(mapping, max_size=2) if "list" in str(annotation) else mapping


GOOD = {"model": {"preset": "gpt2"}, "data": {"train": [{"stdlib": True}]}, "training": {"steps": 10}}
RECIPES = st.fixed_dictionaries({}, optional={name: section(field.annotation) | ANY for name, field in Recipe.model_fields.items()})
# Two sections are random and the rest is good, so that some get through, and that the later checks are reached.
NEARLY = st.dictionaries(st.sampled_from(list(Recipe.model_fields)), st.none(), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: section(Recipe.model_fields[name].annotation) for name in names}).map(
        lambda found: GOOD | found
    )
)
OVERRIDES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([*NAMES, *Recipe.model_fields, "0", "1"]), min_size=1, max_size=3), SCALARS | st.text(max_size=8)
    ).map(lambda pair: f"{'.'.join(pair[0])}={pair[1]}")
    | st.text(max_size=8),
    max_size=2,
)


def judge(content: bytes, overrides: list[str]) -> None:
    FOLDER.write_bytes(content)
    try:
        resolved = read_recipe(str(FOLDER), overrides)
        config = model_config(resolved.recipe.model, 257)
        FOLDER.write_text(dump_recipe(resolved.recipe, config), encoding="utf-8")
        again = read_recipe(str(FOLDER))
    except UsageError:
        return
    finally:
        FOLDER.unlink(missing_ok=True)
    assert again.recipe.training == resolved.recipe.training


@settings(max_examples=150, deadline=None)
@given(RECIPES | NEARLY | NEARLY, OVERRIDES)
def test_random_recipes(recipe: dict[str, Any], overrides: list[str]) -> None:
    judge(json.dumps(recipe, ensure_ascii=False).encode("utf-8", "replace"), overrides)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t1.?~<", max_size=30).map(str.encode), OVERRIDES)
def test_random_bytes(content: bytes, overrides: list[str]) -> None:
    judge(content, overrides)

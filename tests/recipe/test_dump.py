from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.recipe import bundled_recipes, dump_recipe, model_config, open_recipe, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.tree import plain
from tfkit.recipe.schema.sections import Recipe


@pytest.mark.parametrize("name", [recipe.name for recipe in bundled_recipes() if not open_recipe(recipe.name).has_stages])
def test_the_resolved_recipe_reads_back_equal(name: str, tmp_path: Path) -> None:
    changes = {"optimizer.lr": 1e-4, "generation.stop": ["a", "b: c"], "training.seed": 4294967295}
    recipe = read_recipe(name, changes).recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe, None), encoding="utf-8")
    assert read_recipe(str(path)).recipe == recipe
    if recipe.model.start is not None:  # the model is described in its own files
        return
    config = model_config(recipe.model, recipe.tokenizer.vocab_size)
    text = dump_recipe(recipe, config)
    path.write_text(text, encoding="utf-8")
    again = read_recipe(str(path)).recipe
    assert again.model_copy(update={"model": recipe.model}) == recipe
    assert again.model.changes == config.model_dump(mode="json")
    assert model_config(again.model, 200) == config  # a tokenizer may be smaller
    assert dump_recipe(again, config) == text


def test_a_finished_tokenizer_and_muon_read_back(tmp_path: Path) -> None:
    changes = [
        "tokenizer={kind: byte_bpe, path: runs/a}",
        "optimizer={kind: muon, momentum: 0.5}",
        "data.validation=0.1",
        "training.tokens=5",
    ]
    recipe = read_recipe("gpt2-stdlib", parse_overrides([*changes, "training.steps="])).recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe, model_config(recipe.model, 300)), encoding="utf-8")
    again = read_recipe(str(path)).recipe
    assert again.model_copy(update={"model": recipe.model}) == recipe


TEXTS = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(
    ["no", "1e-4", "~", "0o7", "1_000", "- a", "#", "\ufeff", "\x85", "<<", ".", "+.5"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=4), st.floats(0, 1e30, exclude_min=True))
def test_any_text_and_number_survives(texts: list[str], number: float) -> None:
    data = {"model": {"preset": "gpt2"}, "data": {"train": [{"stdlib": True}]}, "training": {"steps": 1}}
    recipe = Recipe.model_validate(data | {"generation": {"prompts": texts}, "optimizer": {"kind": "adamw", "lr": number}})
    tree, problems = parse(dump_recipe(recipe, None), "f")
    assert not problems
    read = plain(tree)  # type: ignore[arg-type]
    assert read["generation"]["prompts"] == texts
    assert read["optimizer"]["lr"] == number

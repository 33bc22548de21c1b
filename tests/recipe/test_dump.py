"""Recipes as they are written: resolved, and as a JSON Schema for editors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_recipes import has_stages
from recipe_texts import read

from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ModelConfig
from tfkit.recipe import bundled_recipes, dump_recipe, json_schema, model_config, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.tree import plain
from tfkit.recipe.schema.sections import Recipe


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [recipe.name for recipe in bundled_recipes() if not has_stages(recipe.path)])
def test_the_resolved_recipe_reads_back_equal(name: str) -> None:
    recipe = read_recipe(name, {"optimizer.lr": 1e-4, "generation.stop": ["a", "b: c"], "training.seed": 4294967295}).recipe
    assert read(dump_recipe(recipe, None)) == recipe
    if recipe.model.start is not None:  # the model is described in its own files
        return
    config = model_config(recipe.model, recipe.tokenizer.vocab_size)
    text = dump_recipe(recipe, config)
    again = read(text)
    assert again.model_copy(update={"model": recipe.model}) == recipe
    assert again.model.changes == config.model_dump(mode="json")
    assert model_config(again.model, 200) == config  # a tokenizer may be smaller
    assert dump_recipe(again, config) == text


def test_a_finished_tokenizer_and_muon_read_back() -> None:
    changes = ["optimizer={kind: muon, momentum: 0.5}", "data.validation=0.1", "training.tokens=5", "training.steps="]
    recipe = read_recipe("gpt2-stdlib", parse_overrides(["tokenizer={kind: byte_bpe, path: runs/a}", *changes])).recipe
    again = read(dump_recipe(recipe, model_config(recipe.model, 300)))
    assert again.model_copy(update={"model": recipe.model}) == recipe


TEXTS = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(
    ["no", "1e-4", "~", "0o7", "1_000", "- a", "#", "\ufeff", "\x85", "<<", ".", "+.5"]
)


@given(st.lists(TEXTS, max_size=8), st.floats(0, 1e30, exclude_min=True), st.floats(0, 1e6, exclude_min=True))
def test_any_text_and_number_survives(texts: list[str], lr: float, clip_norm: float) -> None:
    optimizer = {"kind": "adamw", "lr": lr, "clip_norm": clip_norm}
    data = {"model": {"preset": "gpt2"}, "data": {"train": [{"stdlib": True}]}, "training": {"steps": 1}}
    recipe = Recipe.model_validate(data | {"generation": {"prompts": texts}, "optimizer": optimizer})
    tree, problems = parse(dump_recipe(recipe, None), "f")
    assert not problems
    read = plain(tree)
    assert read["generation"]["prompts"] == texts
    assert {name: read["optimizer"][name] for name in optimizer} == optimizer


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [reference for inner in value.values() for reference in references(inner)]
    return [reference for inner in value for reference in references(inner)] if isinstance(value, list) else []


def test_the_schema_offers_every_field() -> None:
    schema = json_schema()
    assert schema["anyOf"][0] == {"$ref": "#/$defs/Recipe"}
    stages = schema["anyOf"][1]["properties"]["stages"]
    assert stages["additionalProperties"] == {"$ref": "#/$defs/Stage"}
    recipe, stage, model = (schema["$defs"][name] for name in ("Recipe", "Stage", "ModelSection"))
    assert (recipe["properties"].keys(), recipe["required"]) == (Recipe.model_fields.keys(), ["model", "data", "training"])
    assert (stage["properties"].keys(), stage["required"]) == ({"from", *Recipe.model_fields}, ["data", "training"])
    assert model["properties"].keys() == {"preset", "from", "sha256", *ModelConfig.model_fields}
    assert (stage["additionalProperties"], model["additionalProperties"], model.get("required")) == (False, False, None)
    assert model["properties"]["preset"]["anyOf"][0]["enum"] == [*PRESETS, *RELEASES]
    assert {"type": "null"} in model["properties"]["hidden_dim"]["anyOf"]
    parts = {name: part for name, part in schema["$defs"].items() if name.startswith("Model") and name != "ModelSection"}
    assert len(parts) >= 6
    assert not [name for name, part in parts.items() if "required" in part], "nested parts of the model are optional, too"


def test_it_is_plain_json_and_its_references_lead_somewhere() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert references(schema)
    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= schema["$defs"].keys()

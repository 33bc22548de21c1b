"""Recipes as they are written: resolved, and as a JSON Schema for editors."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_recipes import TEXTS, has_stages
from recipe_texts import MINIMAL, errors, read
from tiny_files import at, places

from tfkit.__main__ import main
from tfkit.families import PRESETS
from tfkit.families.hub_models import RELEASES
from tfkit.model.config import ExpertsConfig, ModelConfig
from tfkit.recipe import bundled_recipes, dump_recipe, json_schema, model_config, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.parse import parse
from tfkit.recipe.reading.tree import plain
from tfkit.recipe.reading.validate import section_types
from tfkit.recipe.schema.sections import ModelSection, Recipe


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


ODD_TEXTS = TEXTS | st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(["0o7", "1_000", "\x85", ".", "+.5"])


@given(st.lists(ODD_TEXTS, max_size=8), st.floats(0, 1e30, exclude_min=True), st.floats(0, 1e6, exclude_min=True))
def test_any_text_and_number_survives(texts: list[str], lr: float, clip_norm: float) -> None:
    optimizer = {"kind": "adamw", "lr": lr, "clip_norm": clip_norm}
    data = {"model": {"preset": "gpt2"}, "data": {"train": [{"stdlib": True}]}, "training": {"steps": 1}}
    recipe = Recipe.model_validate(data | {"generation": {"prompts": texts}, "optimizer": optimizer})
    tree, problems = parse(dump_recipe(recipe, None), "f")
    assert not problems
    read = plain(tree)
    assert read["generation"]["prompts"] == texts
    assert {name: read["optimizer"][name] for name in optimizer} == optimizer


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
    references = {at(schema, path).removeprefix("#/$defs/") for path in places(schema) if path[-1] == "$ref"}
    assert references
    assert references <= schema["$defs"].keys()


# -- bounds: every number has a largest value, and one beyond it is refused with its place


RULES = "objective.rules"
ABSURD = {"int": "999999999999999999", "float": "1e308"}


def fields(record: Any, path: tuple[str, ...], choice: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The dotted path of each number of a recipe, a value far too large for it, and the kinds that must be chosen for it to be there."""
    for name, field in record.model_fields.items():
        here = (*path, name)
        annotation = getattr(field.annotation, "__name__", "") + str(field.annotation)
        if found := re.search(r"\b(int|float)\b", annotation):
            yield ".".join(here), ABSURD[found[1]], choice
        for inner in section_types(field.annotation):
            if inner in (ModelSection, ModelConfig):
                continue
            kind = inner.model_fields["kind"].annotation.__args__[0] if "kind" in inner.model_fields else None
            least = {
                name: next(bound.ge for bound in one.metadata if hasattr(bound, "ge"))
                for name, one in inner.model_fields.items()
                if inner is ExpertsConfig and one.is_required()  # the one section without a kind that is null unless it is given
            }
            given = {"kind": kind} if kind else least
            yield from fields(inner, here, choice | ({".".join(here): given} if given else {}))


NUMBERS = [*fields(Recipe, (), {}), *fields(ModelConfig, ("model",), {})]
NAMES = [path + "".join(f"-{one.get('kind', 'given')}" for one in choice.values()) for path, _, choice in NUMBERS]
LISTS = {"betas": 2, "split": 3} | dict.fromkeys(("windows", "copy_layers", "trial_rates", "short_factors", "long_factors"), 1)


def test_every_number_in_the_published_schema_has_a_largest_value() -> None:
    schema = json_schema()
    found = {path: at(schema, path[:-1]) for path in places(schema) if path[-1] == "type" and at(schema, path) in ("integer", "number")}
    assert len(found) > 80
    assert [path for path, number in found.items() if not {"maximum", "exclusiveMaximum"} & number.keys()] == []
    assert all("minimum" in number or "exclusiveMinimum" in number for number in found.values())


@pytest.mark.parametrize("number", NUMBERS, ids=NAMES)
def test_an_absurd_number_is_refused_with_its_place(number: tuple[str, str, dict[str, Any]]) -> None:
    path, absurd, choice = number
    parts = path.split(".")
    words = [f"{name}={json.dumps([value] if name == RULES else value)}" for name, value in choice.items()]
    if path.startswith(f"{RULES}."):  # a list
        parts.insert(2, "0")
    if parts[0] == "data" and len(parts) > 2:  # of a source
        parts.insert(2, "0")
        words += ["data.validation=[{stdlib: true}]", "data.pretraining=[{stdlib: true}]"]
    value = f"[{', '.join([absurd] * LISTS[parts[-1]])}]" if parts[-1] in LISTS else absurd
    path = ".".join(parts)
    refusal = rf"^overrides: {re.escape(path)}(\.0)?: must be (at most|less than) \S+, not (9{{18}}|1e\+?308)"
    assert any(re.search(refusal, line) for line in errors(MINIMAL, *words, f"{path}={value}"))


def test_published_models_are_far_below() -> None:
    """Ten times a published size is allowed, but of depth."""
    for _, preset in PRESETS.values():
        widths = ("dim", "num_heads", "num_kv_heads", "context_length", "vocab_size", "hidden_dim")
        more = {part: 10 * preset[part] for part in widths if preset.get(part)}
        layers = {part: 4 * preset[part] for part in ("encoder_layers", "decoder_layers") if preset.get(part)}
        ModelConfig.model_validate(preset | {"vocab_size": 30_000} | more | layers)


@pytest.mark.parametrize("threads", ["10000", "1000000000000"])
def test_absurd_threads_are_not_started(threads: str, tmp_path: Path) -> None:
    assert main(["pretrain", "smoke", "--run", str(tmp_path / "run"), "--threads", threads]) == 2
    assert not (tmp_path / "run").exists()

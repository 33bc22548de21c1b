"""Absurd numbers: every number of a recipe has a largest value, which is refused above, and published models stay far below."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfkit.__main__ import main
from tfkit.families import PRESETS
from tfkit.model.config import ExpertsConfig, ModelConfig
from tfkit.recipe import RecipeError, bundled_recipes, json_schema, open_recipe, read_chain, read_recipe
from tfkit.recipe.reading.overrides import parse_overrides
from tfkit.recipe.reading.validate import section_types
from tfkit.recipe.schema.sections import ModelSection, Recipe

GOOD = "model: {preset: gpt2}\ndata: {train: [{stdlib: true}]}\ntraining: {steps: 3}\n"
RULES = "objective.rules"
ABSURD = {"int": "999999999999999999", "float": "1e308"}


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every schema of a number, with its path."""
    if isinstance(value, dict):
        if value.get("type") in ("integer", "number"):
            yield path, value
        for name, inner in value.items():
            yield from numbers(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, path)


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


def test_every_number_in_the_published_schema_has_a_largest_value() -> None:
    found = list(numbers(json_schema()))
    assert len(found) > 80
    unbounded = [".".join(path) for path, number in found if not {"maximum", "exclusiveMaximum"} & number.keys()]
    assert unbounded == []
    assert all("minimum" in number or "exclusiveMinimum" in number for _, number in found)


NUMBERS = [*fields(Recipe, (), {}), *fields(ModelConfig, ("model",), {})]


def _name(number: tuple[str, str, dict[str, Any]]) -> str:
    path, _, choice = number
    return path + "".join(f"-{one.get('kind', 'given')}" for one in choice.values())


@pytest.mark.parametrize("number", NUMBERS, ids=_name)
def test_an_absurd_number_is_refused_with_its_place(number: tuple[str, str, dict[str, Any]], tmp_path: Path) -> None:
    path, absurd, choice = number
    parts = path.split(".")
    words = [f"{name}={json.dumps([value] if name == RULES else value)}" for name, value in choice.items()]
    if path.startswith(f"{RULES}."):  # a list
        parts.insert(2, "0")
    if parts[0] == "data" and len(parts) > 2:  # of a source
        parts.insert(2, "0")
        words += ["data.validation=[{stdlib: true}]", "data.pretraining=[{stdlib: true}]"]
    entries = {"betas": 2, "split": 3, "windows": 1, "copy_layers": 1, "trial_rates": 1, "short_factors": 1, "long_factors": 1}.get(
        parts[-1]
    )
    value = absurd if entries is None else f"[{', '.join([absurd] * entries)}]"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(GOOD, encoding="utf-8")
    path = ".".join(parts)
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(recipe), parse_overrides([*words, f"{path}={value}"]))
    assert re.search(
        rf"^overrides: {re.escape(path)}(\.0)?: must be (at most|less than) \S+, not (9{{18}}|1e\+?308)", str(caught.value), re.M
    )


def test_it_is_said_with_line_and_column(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(GOOD + "tokenizer:\n  vocab_size: 1000000000\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(recipe))
    assert str(caught.value) == f"{recipe}:5:15: tokenizer.vocab_size: must be at most 1,048,576, not 1000000000"


def test_published_models_and_bundled_recipes_are_far_below() -> None:
    """Ten times a published size is allowed, but of depth."""
    for _, preset in PRESETS.values():
        more = {
            part: 10 * preset[part]
            for part in ("dim", "num_heads", "num_kv_heads", "context_length", "vocab_size", "hidden_dim")
            if preset.get(part)
        }
        layers = {part: 4 * preset[part] for part in ("encoder_layers", "decoder_layers") if preset.get(part)}
        ModelConfig.model_validate(preset | {"vocab_size": 30_000} | more | layers)
    for bundled in bundled_recipes():
        source = open_recipe(bundled.name)
        read_chain(source) if source.has_stages else source.read()


@pytest.mark.parametrize("threads", ["10000", "1000000000000"])
def test_absurd_threads_are_not_started(threads: str, tmp_path: Path) -> None:
    assert main(["pretrain", "smoke", "--run", str(tmp_path / "run"), "--threads", threads]) == 2
    assert not (tmp_path / "run").exists()

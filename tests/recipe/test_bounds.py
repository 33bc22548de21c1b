"""Absurd numbers: every number of a recipe has a largest value, which is refused above, and published models stay far below."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recipe_texts import MINIMAL, errors

from tfkit.__main__ import main
from tfkit.families import PRESETS
from tfkit.model.config import ExpertsConfig, ModelConfig
from tfkit.recipe import json_schema
from tfkit.recipe.reading.validate import section_types
from tfkit.recipe.schema.sections import ModelSection, Recipe

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


NUMBERS = [*fields(Recipe, (), {}), *fields(ModelConfig, ("model",), {})]
NAMES = [path + "".join(f"-{one.get('kind', 'given')}" for one in choice.values()) for path, _, choice in NUMBERS]
LISTS = {"betas": 2, "split": 3} | dict.fromkeys(("windows", "copy_layers", "trial_rates", "short_factors", "long_factors"), 1)


def test_every_number_in_the_published_schema_has_a_largest_value() -> None:
    found = list(numbers(json_schema()))
    assert len(found) > 80
    assert [".".join(path) for path, number in found if not {"maximum", "exclusiveMaximum"} & number.keys()] == []
    assert all("minimum" in number or "exclusiveMinimum" in number for _, number in found)


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

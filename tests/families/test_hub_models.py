"""The Hub's names of models: aliases of presets, and what is said of names that are none."""

import json
from pathlib import Path

import pytest
import transformers

from tfkit.errors import ModelError
from tfkit.families import FAMILIES, MODEL_TYPES, PRESETS
from tfkit.families.hub_models import _NEAREST, RELEASES, nearest_type, preset_of, unknown_preset
from tfkit.hub.config_json import read_config
from tfkit.recipe import read_recipe


def test_every_release_is_a_preset_and_every_preset_with_a_class_of_its_own_has_one() -> None:
    assert set(RELEASES.values()) <= set(PRESETS)
    without = {
        name for name, (family, _) in PRESETS.items() if name not in RELEASES.values() and family.name not in ("transformer_2017", "gpt3")
    }
    assert without == set()


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("bert-base-uncased", "bert-base"),
        ("google-bert/bert-base-uncased", "bert-base"),
        ("bert-base-cased", "bert-base-cased"),
        ("openai-community/gpt2-medium", "gpt2-medium"),
        ("t5-small", "t5-small"),
        ("google/t5-v1_1-small", "t5-v1.1-small"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("SmolLM2-135M", "smollm2-135m"),
        ("meta-llama/Llama-3.2-1B", "llama3.2-1b"),
        ("openai-gpt", "gpt"),
        ("Qwen/Qwen3-0.6B-Base", "qwen3-0.6b"),
        ("allenai/OLMo-2-0425-1B", "olmo2-1b"),
        ("microsoft/phi-4", "phi4-14b"),
        ("someone/gpt2-medium", "someone/gpt2-medium"),
        ("FacebookAI/xlm-roberta-base", "xlm-roberta-base"),
        ("albert-base", "albert-base"),
    ],
)
def test_aliases(name: str, preset: str) -> None:
    assert preset_of(name) == preset


def test_a_recipe_takes_the_hub_s_name_and_is_resolved_with_ours(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = "model: {preset: distilbert-base-uncased}\ntokenizer: {kind: wordpiece}\ndata: {train: [{stdlib: true}]}\n"
    recipe.write_text(f"{text}objective: {{kind: masked_lm}}\ntraining: {{steps: 1}}\n", encoding="utf-8")
    assert read_recipe(str(recipe)).recipe.model.preset == "distilbert-base"


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("bert-base-uncase", "'bert-base-uncase' is not a preset; did you mean bert-base-uncased?"),
        ("SmolLM2-135", "'SmolLM2-135' is not a preset; did you mean smollm2-135m?"),
        ("albert-base", "'albert-base' is not a preset; the nearest family is bert."),
        ("microsoft/Phi-3.5-mini-instruct", "'microsoft/Phi-3.5-mini-instruct' is not a preset; the nearest family is phi3."),
        ("phi-2", "'phi-2' is not a preset; the nearest family is gpt2."),
        ("xlm-roberta-xl", "'xlm-roberta-xl' is not a preset; the nearest family is xlm-roberta."),
        ("xyzzy", "'xyzzy' is not a preset; give another."),
    ],
)
def test_the_guess_comes_first_and_the_list_is_short(name: str, beginning: str) -> None:
    message = unknown_preset(name)
    assert message.startswith(beginning)
    assert len([preset for preset in PRESETS if f" {preset}," in message]) <= len(FAMILIES)


@pytest.mark.parametrize(
    ("kind", "near"), [("olmo", "llama"), ("albert", "bert"), ("umt5", "t5"), ("gpt_neo", "gpt2"), ("gemma3n", "gemma3"), ("mamba", None)]
)
def test_the_nearest_of_a_type_that_is_not_implemented(kind: str, near: str | None, tmp_path: Path) -> None:
    assert nearest_type(kind) == near
    with pytest.raises(ModelError) as error:
        read_config(json.loads(json.dumps({"model_type": kind})), tmp_path)
    assert (f"is not implemented; the nearest implemented type is {near}. " in str(error.value)) == (near is not None)


def test_the_table_of_kinds_names_types_that_exist_and_are_not_ours() -> None:
    known = set(transformers.CONFIG_MAPPING)
    kinds = {kind for kinds in _NEAREST.values() for kind in kinds}
    assert set(_NEAREST) <= set(MODEL_TYPES)
    assert not kinds & set(MODEL_TYPES)
    assert len(kinds & known) > 0.8 * len(kinds), sorted(kinds - known)  # a few were renamed, or live elsewhere

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


def test_aliases() -> None:
    wanted = {"bert-base-uncased": "bert-base", "google-bert/bert-base-uncased": "bert-base", "google/t5-v1_1-small": "t5-v1.1-small"}
    wanted |= {"openai-community/gpt2-medium": "gpt2-medium", "HuggingFaceTB/SmolLM2-135M": "smollm2-135m", "SmolLM2-135M": "smollm2-135m"}
    wanted |= {"meta-llama/Llama-3.2-1B": "llama3.2-1b", "openai-gpt": "gpt", "Qwen/Qwen3-0.6B-Base": "qwen3-0.6b"}
    wanted |= {"allenai/OLMo-2-0425-1B": "olmo2-1b", "microsoft/phi-4": "phi4-14b", "FacebookAI/xlm-roberta-base": "xlm-roberta-base"}
    wanted |= {name: name for name in ("bert-base-cased", "t5-small", "someone/gpt2-medium", "albert-base")}
    assert {name: preset_of(name) for name in wanted} == wanted


def test_a_recipe_takes_the_hub_s_name_and_is_resolved_with_ours(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = "model: {preset: distilbert-base-uncased}\ntokenizer: {kind: wordpiece}\ndata: {train: [{stdlib: true}]}\n"
    recipe.write_text(f"{text}objective: {{kind: masked_lm}}\ntraining: {{steps: 1}}\n", encoding="utf-8")
    assert read_recipe(str(recipe)).recipe.model.preset == "distilbert-base"


def test_the_guess_comes_first_and_the_list_is_short() -> None:
    nearest = {"albert-base": "bert", "microsoft/Phi-3.5-mini-instruct": "phi3", "phi-2": "gpt2", "xlm-roberta-xl": "xlm-roberta"}
    said = {name: f"the nearest family is {family}." for name, family in nearest.items()} | {"xyzzy": "give another."}
    said |= {"bert-base-uncase": "did you mean bert-base-uncased?", "SmolLM2-135": "did you mean smollm2-135m?"}
    for name, guess in said.items():
        message = unknown_preset(name)
        assert message.startswith(f"{name!r} is not a preset; {guess}")
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

"""A family expresses a description wholly or not at all; what none expresses goes under our own type, and fails to load elsewhere."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_files import read_json
from transformers import AutoModelForCausalLM

import tfkit.families
from tfkit.families import FAMILIES, PRESETS
from tfkit.hub import OWN_TYPE, load, save_model
from tfkit.hub.config_json import family_of
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import build

TINY: dict[str, Any] = {"vocab_size": 61, "context_length": 24, "decoder_layers": 2, "dim": 24, "num_heads": 3, "hidden_dim": 40}
IDS = torch.tensor([[7 * t % 61 for t in range(20)]])


def tiny_config(preset: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(PRESETS[preset][1] | TINY | {"init": {"std": 0.35}} | changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_expressed_by_its_family(preset: str) -> None:
    """Or by none, where Hugging Face has no class for it."""
    family, values = PRESETS[preset]
    assert family_of(ModelConfig.model_validate(values), prefer=family.name) is (family if family.model_type else None)


def test_the_preferred_family_comes_first_where_several_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layout may have several names."""
    monkeypatch.setitem(sys.modules, "tfkit.families.twin", SimpleNamespace(FAMILY=replace(FAMILIES["gpt2"], name="twin")))
    monkeypatch.setattr(tfkit.families, "_NAMES", (*FAMILIES, "twin"))
    for prefer, expected in {None: "gpt2", "gpt2": "gpt2", "twin": "twin", "llama": "gpt2", OWN_TYPE: "gpt2"}.items():
        family = family_of(tiny_config("gpt2"), prefer=prefer)
        assert (family and family.name) == expected, prefer


ENCODER = {"encoder_layers": 2, "decoder_layers": 0}
TAGS = {"kind": "tags", "count": 4}
SINUSOIDS = {"position": {"kind": "sinusoidal"}}
UNEXPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    "rotary positions with LayerNorm but no biases": (
        "gpt2",
        {"position": {"kind": "rotary"}, "attention": {}, "mlp": {"activation": "gelu"}},
    ),
    "learned positions with RMSNorm": ("llama-7b", {"position": {"kind": "learned"}}),
    "a plain mlp in Llama": ("llama-7b", {"mlp": {"activation": "silu"}}),
    "a gated mlp in GPT-2": ("gpt2", {"mlp": {"activation": "gelu_tanh", "gated": True, "bias": True}}),
    "shared heads in GPT-2": ("gpt2", {"num_kv_heads": 1}),
    "wider heads in GPT-2": ("gpt2", {"head_dim": 12}),
    "heads that do not divide the width": ("gpt2", {"num_heads": 5, "head_dim": 6}),
    "biases on the attention's output alone": ("llama-7b", {"attention": {"out_bias": True}}),
    "bands in GPT-3": ("gpt3-125m", {}),
    "exact gelu in GPT": ("gpt", {"hidden_dim": 96, "mlp": {"activation": "gelu", "bias": True}}),
    "another inner width in GPT": ("gpt", {}),
    "GPT's norms with a sandwich": ("gpt", {"hidden_dim": 96, "norm": {"kind": "layer", "placement": "sandwich"}}),
    "GPT-2's norms with rms": ("gpt2", {"norm": {"kind": "rms"}}),
    "a choice in Llama": ("llama-7b", {"head": {"tied": False, "choices": True}}),
    "segments in GPT-2": ("gpt2", {"embedding": {"segments": 2}}),
    "scaled embeddings in GPT": ("gpt", {"hidden_dim": 96, "embedding": {"scale": True}}),
    "capped logits in GPT-2": ("gpt2", {"head": {"tied": True, "softcap": 3.0}}),
    "a biased head in GPT-2": ("gpt2", {"head": {"tied": True, "bias": True}}),
    "scores of another scale in GPT-2": ("gpt2", {"attention": {"qkv_bias": True, "out_bias": True, "scale": 0.5}}),
    "relative positions in GPT-2": ("gpt2", {"position": {"kind": "relative", "buckets": 8, "max_distance": 12}}),
    "sinusoids in GPT": ("gpt", SINUSOIDS | {"hidden_dim": 96}),
    "GPT-2 as an encoder and a decoder": ("gpt2", {"encoder_layers": 1}),
    "GPT-2 with BERT's head": ("gpt2", {"head": {"kind": "masked_lm", "tied": True}}),
    "Llama as an encoder with tags": ("llama-7b", ENCODER | {"head": TAGS}),
    "an encoder with sinusoids and classes": (
        "bert-tiny",
        ENCODER | SINUSOIDS | {"head": {"kind": "classes", "count": 3, "pool": "first"}},
    ),
    "an encoder with windows and tags": ("distilbert-base", ENCODER | {"attention": {"windows": [4, None]}, "head": TAGS}),
    "RoBERTa with another gelu": ("roberta-base", ENCODER | {"mlp": {"activation": "gelu_tanh"}}),
    "the decoder of 2017 alone": ("transformer-2017-base", {"encoder_layers": 0}),
    "attention of 2017 without biases, as in the paper": (
        "transformer-2017-base",
        {"attention": {}, "head": {"tied": True}, "position": {"kind": "sinusoidal", "layout": "interleaved"}},
    ),
    **{
        f"an output matrix of its own in {preset}": (preset, {"head": {"kind": "lm", "tied": False, "bias": True}})
        for preset in ("transformer-2017-base", "bart-base")
    },
    "T5 as a decoder alone": ("t5-v1.1-small", {"encoder_layers": 0}),
    "Gemma 2 with heads that do not divide the width": ("gemma2-2b", {"num_heads": 5, "num_kv_heads": 5, "head_dim": 6}),
    "wider heads in OLMoE": ("olmoe-1b-7b", {"num_kv_heads": 3, "head_dim": 12}),
    "GPT-2 without biases": ("gpt2", {"attention": {}, "mlp": {"activation": "gelu_tanh"}}),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("preset", "changes"), UNEXPRESSED.values(), ids=UNEXPRESSED)
@torch.no_grad()
def test_what_no_family_expresses_goes_under_our_own_type(tmp_path: Path, preset: str, changes: dict[str, Any]) -> None:
    model = build(tiny_config(preset, **changes), seed=1).eval()
    (tmp_path / "a").mkdir()
    labels = [f"Straße {number}" for number in range(getattr(model.config.head, "count", 0))]
    save_model(tmp_path / "a", model.config, model.state_dict(), None, family=PRESETS[preset][0].name, labels=labels)
    assert read_json(tmp_path / "a" / "config.json")["model_type"] == OWN_TYPE
    loaded = load(tmp_path / "a")
    assert (loaded.family, loaded.config, loaded.labels) == (OWN_TYPE, model.config, tuple(labels))
    inputs = {"decoder_input_ids": IDS} if model.config.encoder_layers and model.config.decoder_layers else {}
    assert torch.equal(loaded.model(IDS, **inputs).logits, model(IDS, **inputs).logits)
    loaded.save(tmp_path / "b")
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in (tmp_path / "a").iterdir())
    with pytest.raises(ValueError, match=f"model type `?{OWN_TYPE}"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "a")


def longrope(head_dim: int) -> dict[str, Any]:
    pairs = head_dim // 2
    return {"kind": "longrope", "short_factors": [1.0] * pairs, "long_factors": [2.0] * pairs, "original_context_length": 8}


@pytest.mark.parametrize(
    ("preset", "head_dim", "scaling", "family"),
    [
        ("mixtral-8x7b", 8, {"kind": "yarn", "factor": 4.0, "original_context_length": 8}, "mixtral"),
        ("mixtral-8x7b", 8, longrope(8), "mixtral"),
        ("phi3-mini-4k", 8, longrope(8), "phi3"),
        ("phi3-mini-4k", 12, longrope(12), "llama"),
    ],
    ids=str,
)
@torch.no_grad()
def test_transformers_opens_scaled_positions_for_which_it_needs_the_width_of_heads(
    tmp_path: Path, preset: str, head_dim: int, scaling: dict[str, Any], family: str
) -> None:
    changes = {"num_kv_heads": 3, "head_dim": head_dim, "attention": {}, "position": {"kind": "rotary", "scaling": scaling}}
    model = build(tiny_config(preset, **changes), seed=1).eval()
    save_model(tmp_path, model.config, model.state_dict(), None, family=PRESETS[preset][0].name)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert theirs.config.model_type == family
    assert (theirs(IDS).logits - model(IDS).logits).abs().max() < 1e-5


def test_a_number_that_a_family_cannot_state_is_not_expressed_by_it() -> None:
    """Gemma 2 states the scale of its scores as the inverse of its square, which overflows here."""
    assert family_of(tiny_config("gemma2-2b", num_kv_heads=3, attention={"scale": 1e-200}), prefer="gemma2") is None


def test_dropout_and_initialization_come_back_from_our_own_file(tmp_path: Path) -> None:
    changes = {"dropout": {"embedding": 0.1, "attention": 0.2, "residual": 0.3}, "init": {"std": 0.3, "residual_scaling": True}}
    config = tiny_config("llama-7b", **changes)
    save_model(tmp_path, config, build(config, seed=1).state_dict(), None, facts={"objective": "causal_lm"})
    assert load(tmp_path).config == config
    assert load(tmp_path).family == "llama"
    document = read_json(tmp_path / "tfkit.json")
    assert document == {"schema_version": 1, "model": config.model_dump(include={"dropout", "init"}), "objective": "causal_lm"}

"""Phi-3 and Phi-4 (Abdin et al. 2024, arXiv 2404.14219 and 2412.08905).

The architecture is Llama's; new is the data, chosen for small models: filtered pages, and texts written by larger ones. Files have one
matrix for queries, keys and values, and one for gate and up. Phi-3's 4 k models have a window of 2,047 tokens. Its 128 k models and
Phi-4-mini have no presets, since only their files state the factors of their longrope. Sizes as released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.config_fields import UnsupportedError, first_window
from tfkit.families.rotary import position_from_hf
from tfkit.families.rules import Rule, decoder_classes
from tfkit.model.config import ModelConfig, Rotary

_PHI3: dict[str, Any] = {"vocab_size": 32064, "context_length": 4096, "attention": {"windows": [2047]}}
_PHI4: dict[str, Any] = {"vocab_size": 100352, "context_length": 16384, "position": {"kind": "rotary", "theta": 2.5e5}}
PRESETS = {
    "phi3-mini-4k": llama.size(3072, 32, 32, 32, 8192, **_PHI3),
    "phi3-medium-4k": llama.size(5120, 40, 40, 10, 17920, **_PHI3),
    "phi4-14b": llama.size(5120, 40, 40, 10, 17920, **_PHI4),
}

ARCHITECTURES = decoder_classes("Phi3", "classes", "tags")
_OURS, _THEIRS = "decoder.blocks.{i}", "model.layers.{i}"
RULES = (
    *(rule for rule in llama.RULES if not any(part in rule.theirs for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))),
    Rule(f"{_THEIRS}.self_attn.qkv_proj.weight", tuple(f"{_OURS}.self_attention.op.{name}_proj.weight" for name in "qkv")),
    Rule(f"{_THEIRS}.mlp.gate_up_proj.weight", tuple(f"{_OURS}.mlp.op.{name}_proj.weight" for name in ("gate", "up"))),
)

# Hugging Face's class defaults for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | llama.NO_BIAS
    position = position_from_hf(hf, partial=1.0)
    if (kind := position.get("scaling", {}).get("kind", "longrope")) != "longrope":  # transformers' Phi-3 reads yarn as longrope
        raise UnsupportedError(f"rope_scaling of type {kind!r} is not supported for model_type phi3, only default and longrope are")
    values = llama.from_hf(hf, ARCHITECTURES, position=position)
    values["attention"] |= {"windows": [hf.get("sliding_window")]}
    values["dropout"] |= {"residual": hf.get("resid_pdrop", 0.0), "embedding": hf.get("embd_pdrop", 0.0)}
    return values


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    fields = llama.to_hf(config, (*llama.NO_BIAS, *llama.usual_head_dim(config)))
    part = config.position.fraction if isinstance(config.position, Rotary) else 1.0
    original = (fields["rope_scaling"] or {}).get("original_max_position_embeddings")
    if original and not llama.usual_head_dim(config):
        raise UnsupportedError(f"Phi-3 with longrope has heads of hidden_size / num_attention_heads, not of {config.head_dim}")
    return fields | {
        **({"partial_rotary_factor": part} if part != 1 else {}),
        **({"original_max_position_embeddings": original} if original else {}),  # transformers prefers this to the value in rope_scaling
        "sliding_window": first_window(config),
        "resid_pdrop": config.dropout.residual,
        "embd_pdrop": config.dropout.embedding,
    }


FAMILY = replace(
    llama.FAMILY,
    name="phi",
    model_type="phi3",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    from_hf=_from_hf,
    to_hf=_to_hf,
    own_keys=frozenset({"partial_rotary_factor"}),
)

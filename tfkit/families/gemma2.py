"""Gemma 2 (Riviere et al. 2024, arXiv 2408.00118).

New compared with Llama: each sublayer has a norm before it and one after it, with weights stored minus one; the attention scores and
the logits are soft-capped, cap * tanh(x / cap), which bounds them; layers alternate between a window of 4,096 tokens and all tokens,
starting with a window; the MLP's gate is a GELU (its tanh form); embeddings are tied, and scaled by the root of dim at the input; the
width of heads is not dim / num_heads. The 2B and 9B models were distilled from a larger one.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import gemma, llama
from tfkit.families.config_fields import UnsupportedError, check_heads, first_window, layer_types, windows_from_hf
from tfkit.families.rules import Rule, decoder_classes
from tfkit.model.config import ModelConfig

_BASE: dict[str, Any] = gemma.BASE | {  # with a vocab_size of 256,000, as in the released files; the paper has 256,128
    "norm": gemma.BASE["norm"] | {"placement": "sandwich"},
    "attention": {"softcap": 50.0, "windows": [4096, None]},
    "head": {"kind": "lm", "tied": True, "softcap": 30.0},
}
_SCALE_27B = 144**-0.5  # 1 / sqrt(dim / num_heads); the smaller models use 1 / sqrt(head_dim)
_BASE_27B = _BASE | {"head_dim": 128, "attention": _BASE["attention"] | {"scale": _SCALE_27B}}

# Sizes: table 1 of the paper, whose MLP widths count gate and up together.
PRESETS = {
    "gemma2-2b": llama.size(2304, 26, 8, 4, 9216, **_BASE),
    "gemma2-9b": llama.size(3584, 42, 16, 8, 14336, **_BASE),
    "gemma2-27b": llama.size(4608, 46, 32, 16, 36864, **_BASE_27B),
}

ARCHITECTURES = decoder_classes("Gemma2", "classes", "tags")
_OURS, _THEIRS = "decoder.blocks.{i}", "model.layers.{i}"

RULES = (
    *(rule for rule in llama.RULES if "post_attention_layernorm" not in rule.theirs),
    # This norm comes after attention; Llama's norm of the same name is the one before the MLP.
    Rule(f"{_THEIRS}.post_attention_layernorm.weight", (f"{_OURS}.self_attention.post_norm.weight",)),
    Rule(f"{_THEIRS}.pre_feedforward_layernorm.weight", (f"{_OURS}.mlp.norm.weight",)),
    Rule(f"{_THEIRS}.post_feedforward_layernorm.weight", (f"{_OURS}.mlp.post_norm.weight",)),
)

# Hugging Face's class defaults, those of the 2B model, for fields that a file leaves out. The field hidden_act of old files is not read.
_CLASS_DEFAULTS: dict[str, Any] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | {"mlp_bias": False}
    values = llama.from_hf(hf, ARCHITECTURES, "hidden_activation", softcap=hf["final_logit_softcapping"])
    values["embedding"] = {"scale": True}
    values["norm"] |= {"placement": "sandwich", "unit_offset": True}
    values["attention"] |= {
        "scale": scale_from_hf(hf),
        "softcap": hf["attn_logit_softcapping"],
        "windows": windows_from_hf(hf, hf["sliding_window"], lambda layer: layer % 2 == 0),
    }
    return values


def scale_from_hf(hf: dict[str, Any]) -> float | None:
    """Return query_pre_attn_scalar^-0.5, the scale of the scores; None if that is the default scale."""
    scalar = hf["query_pre_attn_scalar"]
    if isinstance(scalar, bool) or not isinstance(scalar, int | float) or not 0 < scalar < 1e300:
        raise UnsupportedError(f"query_pre_attn_scalar {scalar!r:.80} is not a positive number below 1e300")
    return None if scalar == hf["head_dim"] else scalar**-0.5


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    check_heads(config)
    scale, head = config.attention.scale, config.head
    try:
        scalar = config.head_dim if scale is None else round(scale**-2)
    except OverflowError:
        raise UnsupportedError(f"Gemma 2 has no query_pre_attn_scalar for the scale {scale}") from None
    return llama.to_hf(config, ("hidden_act", "mlp_bias")) | {
        "hidden_activation": llama.LLAMA_ACTIVATIONS[config.mlp.activation],
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": config.attention.softcap,
        "final_logit_softcapping": head.softcap if head.kind == "lm" else None,
        # transformers requires a window even if no layer uses it
        "sliding_window": first_window(config) or config.context_length,
        "layer_types": layer_types(config),
    }


FAMILY = replace(
    llama.FAMILY,
    name="gemma2",
    model_type="gemma2",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=RULES,
    from_hf=_from_hf,
    to_hf=_to_hf,
    fixed=gemma.FAMILY.fixed,
    own_keys=frozenset({"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"}),
)

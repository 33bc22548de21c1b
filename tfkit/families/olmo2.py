"""OLMo 2 (OLMo team 2024, arXiv 2501.00656).

New compared with Llama 2: each sublayer's output is normed instead of its input, and queries and keys are normed over the whole projection
before they are split into heads; both keep the training of large models from diverging. Data, code and checkpoints are open. Sizes as
released.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.qwen3 import QK_NORMS
from tfkit.families.rules import Architectures, Rule, decoder_classes
from tfkit.model.config import ModelConfig

BASE: dict[str, Any] = {
    "vocab_size": 100352,
    "context_length": 4096,
    "position": {"kind": "rotary", "theta": 5e5},
    "norm": {"kind": "rms", "eps": 1e-6, "placement": "reordered"},
    "attention": {"qk_norm": "projection"},
}
PRESETS = {
    "olmo2-1b": llama.size(2048, 16, 16, 16, 8192, **BASE),
    "olmo2-7b": llama.size(4096, 32, 32, 32, 11008, **BASE),
    "olmo2-13b": llama.size(5120, 40, 40, 40, 13824, **BASE),
    "olmo2-32b": llama.size(5120, 64, 40, 8, 27648, **BASE),
}

ARCHITECTURES = decoder_classes("Olmo2", "classes")
_OURS, _THEIRS = "decoder.blocks.{i}", "model.layers.{i}"
RULES = (
    *(rule for rule in llama.RULES if "layernorm" not in rule.theirs),
    *QK_NORMS,
    Rule(f"{_THEIRS}.post_attention_layernorm.weight", (f"{_OURS}.self_attention.norm.weight",)),
    Rule(f"{_THEIRS}.post_feedforward_layernorm.weight", (f"{_OURS}.mlp.norm.weight",)),
)

# Hugging Face's class defaults for fields that a file leaves out.
CLASS_DEFAULTS: dict[str, Any] = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}


def from_hf(hf: dict[str, Any], architectures: Architectures = ARCHITECTURES, position: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of a ModelConfig from a config.json. OLMo 3 passes its own `architectures` and `position`."""
    values = llama.from_hf(CLASS_DEFAULTS | hf | {"mlp_bias": False}, architectures, position=position)
    values["norm"] |= {"placement": "reordered"}
    values["attention"] |= {"qk_norm": "projection"}
    return values


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json."""
    return llama.to_hf(config, ("mlp_bias", *llama.usual_head_dim(config)))


FAMILY = replace(
    llama.FAMILY, name="olmo2", model_type="olmo2", architectures=ARCHITECTURES, presets=PRESETS, rules=RULES, from_hf=from_hf, to_hf=to_hf
)

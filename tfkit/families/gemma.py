"""Gemma 1 (Mesnard et al. 2024, arXiv 2403.08295).

New compared with Llama 2: the MLP's gate is a GELU (its tanh form), embeddings are tied, and scaled by the root of dim at the input; norm
weights are stored minus one; heads are 256 wide, and those of the 2B model share one key and value head. Sizes: table 1, whose MLP widths
count gate and up together.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.rules import decoder_classes

BASE: dict[str, Any] = {  # Gemma 2 and 3 use it, too
    "vocab_size": 256000,
    "context_length": 8192,
    "head_dim": 256,
    "embedding": {"scale": True},
    "norm": {"kind": "rms", "eps": 1e-6, "unit_offset": True},
    "mlp": {"activation": "gelu_tanh", "gated": True, "bias": False},
    "head": {"kind": "lm", "tied": True},
}
PRESETS = {"gemma-2b": llama.size(2048, 18, 8, 1, 16384, **BASE), "gemma-7b": llama.size(3072, 28, 16, 16, 24576, **BASE)}

ARCHITECTURES = decoder_classes("Gemma", "classes", "tags")

# Hugging Face's class defaults, those of the 7B model, for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "tie_word_embeddings": True,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | {"mlp_bias": False}
    if hf["hidden_act"] == "gelu":  # the first released files say gelu, but mean its tanh form
        hf["hidden_act"] = "gelu_pytorch_tanh"
    values = llama.from_hf(hf, ARCHITECTURES)
    values["embedding"] = {"scale": True}
    values["norm"] |= {"unit_offset": True}
    return values


FAMILY = replace(
    llama.FAMILY,
    name="gemma",
    model_type="gemma",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    from_hf=_from_hf,
    to_hf=lambda config: llama.to_hf(config, ("mlp_bias",)),
    fixed={**llama.FAMILY.fixed, "use_bidirectional_attention": (False,)},
)

"""Qwen 2 and 2.5 (Yang et al. 2024, arXiv 2407.10671 and 2412.15115).

New compared with Llama 2: a bias on queries, keys and values alone; a larger base of the rotary positions, for 32 k to 128 k tokens; small
models have one matrix for input and output. Qwen 2.5 keeps the architecture and was trained on 18 instead of 7 trillion tokens. Sizes
as in the released base models.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tfkit.families import llama
from tfkit.families.config_fields import LAYER_TYPES, first_window, layer_types, windows_from_hf
from tfkit.families.rules import decoder_classes
from tfkit.model.config import ModelConfig


def _size(dim: int, layers: int, heads: int, kv_heads: int, hidden_dim: int, context: int = 131072, **values: Any) -> dict[str, Any]:
    small = dim <= 2048
    of_qwen2 = {
        "vocab_size": 151936 if small else 152064,
        "context_length": context,
        "position": {"kind": "rotary", "theta": 1e6},
        "norm": {"kind": "rms", "eps": 1e-6},
        "attention": {"qkv_bias": True},
        "head": {"kind": "lm", "tied": small},
    }
    return llama.size(dim, layers, heads, kv_heads, hidden_dim, **of_qwen2 | values)


_EPS: dict[str, Any] = {"norm": {"kind": "rms", "eps": 1e-5}}  # as in the files of the base models; those of the chat models have 1e-6
PRESETS = {
    "qwen2-0.5b": _size(896, 24, 14, 2, 4864),
    "qwen2-1.5b": _size(1536, 28, 12, 2, 8960),
    "qwen2-7b": _size(3584, 28, 28, 4, 18944),
    "qwen2-72b": _size(8192, 80, 64, 8, 29568, **_EPS),
    "qwen2.5-0.5b": _size(896, 24, 14, 2, 4864, 32768),
    "qwen2.5-1.5b": _size(1536, 28, 12, 2, 8960),
    "qwen2.5-3b": _size(2048, 36, 16, 2, 11008, 32768),
    "qwen2.5-7b": _size(3584, 28, 28, 4, 18944),
    "qwen2.5-14b": _size(5120, 48, 40, 8, 13824, **_EPS),
    "qwen2.5-32b": _size(5120, 64, 40, 8, 27648, **_EPS),
    "qwen2.5-72b": _size(8192, 80, 64, 8, 29568, **_EPS),
}

ARCHITECTURES = decoder_classes("Qwen2", "classes", "tags", "spans")

# Hugging Face's class defaults for fields that a file leaves out.
CLASS_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def windows(hf: dict[str, Any], chosen: Callable[[int], bool] | None = None) -> list[Any]:
    """Return the layers' windows. If layer_types is null, those that `chosen` accepts have one (None: those from max_window_layers on)."""
    window = hf["sliding_window"] if hf["use_sliding_window"] else None
    return windows_from_hf(hf, window, lambda layer: window is not None and (chosen(layer) if chosen else layer >= hf["max_window_layers"]))


def window_fields(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config.json that describe windows."""
    window, kinds = first_window(config), layer_types(config)
    fields = {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": kinds}
    return fields if window is None else fields | {"max_window_layers": kinds.index(LAYER_TYPES[0])}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = CLASS_DEFAULTS | hf | llama.NO_BIAS
    values = llama.from_hf(hf, ARCHITECTURES)
    return values | {"attention": {"qkv_bias": True, "windows": windows(hf)}}


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config, (*llama.NO_BIAS, *llama.usual_head_dim(config))) | window_fields(config)


FAMILY = replace(
    llama.FAMILY, name="qwen2", model_type="qwen2", architectures=ARCHITECTURES, presets=PRESETS, from_hf=_from_hf, to_hf=_to_hf
)

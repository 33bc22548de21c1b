"""SmolLM3 (Bakouch et al. 2025, https://huggingface.co/blog/smollm3).

New compared with SmolLM2: every fourth layer has no rotary positions (RNoPE, arXiv 2501.18795), which generalizes better to long texts;
four query heads share a key and value head; Llama 3's vocabulary. Sizes as in the released base model.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama, qwen2
from tfkit.families.config_fields import UnsupportedError, shortest_period
from tfkit.families.rules import decoder_classes
from tfkit.model.config import ModelConfig, Rotary

_BASE: dict[str, Any] = {
    "vocab_size": 128256,
    "context_length": 65536,
    "position": {"kind": "rotary", "theta": 5e6, "layers": [True, True, True, False]},
    "norm": {"kind": "rms", "eps": 1e-6},
    "head": {"kind": "lm", "tied": True},
}
PRESETS = {"smollm3-3b": llama.size(2048, 36, 16, 4, 11008, **_BASE)}

ARCHITECTURES = decoder_classes("SmolLM3", "classes", "tags", "spans")

# Hugging Face's class defaults for fields that a file leaves out.
_CLASS_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 4,
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": None,
    "no_rope_layer_interval": 4,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf
    values = llama.from_hf(hf, ARCHITECTURES)
    layers = _rotated(hf)
    values["position"] |= {"layers": shortest_period(layers)}
    # Layers without rotary positions have the window, if there is one.
    values["attention"] |= {"windows": qwen2.windows(hf, lambda layer: not layers[layer])}
    return values


def _rotated(hf: dict[str, Any]) -> list[bool]:
    """Return whether each layer has rotary positions; despite its name, no_rope_layers has a 1 for each layer that has them."""
    stated, count = hf.get("no_rope_layers"), hf["num_hidden_layers"]
    if stated is None:
        return [(layer + 1) % hf["no_rope_layer_interval"] != 0 for layer in range(count)]
    if not isinstance(stated, list) or len(stated) < count or not {*map(repr, stated)} <= {"0", "1"}:
        raise UnsupportedError("no_rope_layers is not a list with 0 or 1 for each of the num_hidden_layers")
    return [flag == 1 for flag in stated[:count]]


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    kinds = config.position.layers if isinstance(config.position, Rotary) else [True]
    layers = [int(kinds[layer % len(kinds)]) for layer in range(config.decoder_layers)]
    fields = qwen2.window_fields(config)
    fields.pop("max_window_layers", None)
    return llama.to_hf(config, llama.usual_head_dim(config)) | fields | {"no_rope_layers": layers}


FAMILY = replace(
    qwen2.FAMILY,
    name="smollm3",
    model_type="smollm3",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    from_hf=_from_hf,
    to_hf=_to_hf,
    own_keys=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
)

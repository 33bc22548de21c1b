"""Gemma 3, its text models (Kamath et al. 2025, arXiv 2503.19786).

New compared with Gemma 2: norms of queries and keys replace the soft caps; five layers with a window of 512 or 1,024 tokens come before
each layer that sees all tokens. Only layers that see all tokens rotate with a larger base, 1e6, and, from 4B on, with wavelengths eight
times as long, for 128 k tokens. The models from 4B on also read images; tfkit reads only the text part of their folders.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import gemma, gemma2, llama
from tfkit.families.config_fields import windows_from_hf
from tfkit.families.qwen3 import QK_NORMS
from tfkit.families.rotary import position_by_layer
from tfkit.families.rules import Architectures, decoder_classes

_PERIOD = 6


def _size(dim: int, layers: int, heads: int, kv_heads: int, hidden_dim: int, **values: Any) -> dict[str, Any]:
    large = dim > 2048
    rotary = {"kind": "rotary", "theta": 1e6, "local_theta": 1e4}
    of_gemma3 = {
        "vocab_size": 262208 if large else 262144,
        "context_length": 131072 if large else 32768,
        "position": rotary | ({"scaling": {"kind": "linear", "factor": 8.0}} if large else {}),
        "norm": gemma.BASE["norm"] | {"placement": "sandwich"},
        "attention": {"qk_norm": "head", "windows": [*[1024 if large else 512] * (_PERIOD - 1), None]},
    }
    return llama.size(dim, layers, heads, kv_heads, hidden_dim, **gemma.BASE | of_gemma3 | values)


_27B = _size(5376, 62, 32, 16, 21504, head_dim=128)
_SCALE_27B = 168**-0.5  # 1 / sqrt(dim / num_heads); the smaller models use 1 / sqrt(head_dim)
PRESETS = {
    "gemma3-270m": _size(640, 18, 4, 1, 2048),
    "gemma3-1b": _size(1152, 26, 4, 1, 6912),
    "gemma3-4b": _size(2560, 34, 8, 4, 10240),
    "gemma3-12b": _size(3840, 48, 16, 8, 15360),
    "gemma3-27b": _27B | {"attention": _27B["attention"] | {"scale": _SCALE_27B}},
}

ARCHITECTURES: Architectures = {
    "Gemma3ForCausalLM": {"kind": "lm"},
    **{name: head for name, head in decoder_classes("Gemma3Text", "classes").items() if head["kind"] != "lm"},
    "Gemma3ForConditionalGeneration": {"kind": "lm"},  # a model that also reads images
}

# Hugging Face's class defaults for fields that a file leaves out; released files of models that also read images leave out most.
_CLASS_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "final_logit_softcapping": None,
    "sliding_window": 4096,
    "sliding_window_pattern": _PERIOD,
}


def _from_hf(hf: dict[str, Any]) -> dict[str, Any]:
    hf = _CLASS_DEFAULTS | hf | {"mlp_bias": False}
    position = position_by_layer(hf, hf.get("rope_theta", 1e6), hf.get("rope_local_base_freq", 1e4))
    values = llama.from_hf(hf, ARCHITECTURES, "hidden_activation", position, softcap=hf["final_logit_softcapping"])
    values["embedding"] = {"scale": True}
    values["norm"] |= {"placement": "sandwich", "unit_offset": True}
    windows = windows_from_hf(hf, hf["sliding_window"], lambda layer: (layer + 1) % hf["sliding_window_pattern"] != 0)
    values["attention"] |= {"scale": gemma2.scale_from_hf(hf), "qk_norm": "head", "windows": windows}
    return values


FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3",
    model_type="gemma3_text",
    architectures=ARCHITECTURES,
    presets=PRESETS,
    rules=gemma2.RULES + QK_NORMS,
    from_hf=_from_hf,
    to_hf=lambda config: gemma2.FAMILY.to_hf(config) | {"rope_local_base_freq": getattr(config.position, "local_theta", None)},
    # Names in the files of models that also read images; older and newer files order the parts of a name differently.
    renamed=((r"^language_model\.lm_head\.", "lm_head."), (r"^(?:model\.)?language_model\.(?:model\.)?", "model.")),
    container="gemma3",
    other_parts=r"(?:model\.)?(vision_tower|multi_modal_projector)\..*",
    own_keys=frozenset({"query_pre_attn_scalar", "final_logit_softcapping"}),
)

"""Qwen 2 and 3, Gemma 1 and 3, SmolLM3, OLMo 2 and 3, Phi-3, Pythia and OPT, with numbers that bite."""

from typing import Any

import transformers
from tiny_references import Case

_SIZES: dict[str, Any] = {"vocab_size": 97, "intermediate_size": 100, "num_key_value_heads": 3, "max_position_embeddings": 64}
_SIZES |= {"num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5}
_NARROW = _SIZES | {"hidden_size": 72, "num_attention_heads": 9}  # heads of dim / num_heads
_WIDE = _SIZES | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
_FULL, _LOCAL = "full_attention", "sliding_attention"
_LINEAR = {"rope_type": "linear", "rope_theta": 1e5, "factor": 3.0}
_YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.3}
_LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5, 3.0], "long_factor": [1.0, 2.0, 7.0, 30.0], "attention_factor": 1.2}
_GEMMA = _WIDE | {"num_key_value_heads": 2}
_GEMMA3 = _GEMMA | {"sliding_window": 5, "query_pre_attn_scalar": 20, "layer_types": [_LOCAL, _LOCAL, _FULL]}
_LOCAL_ROPE = {"rope_type": "default", "rope_theta": 50.0}
_OLMO3 = _NARROW | {"sliding_window": 5, "layer_types": [_LOCAL, _LOCAL, _FULL]}
_OLMO3_ROPE = {_FULL: dict(_YARN), _LOCAL: {"rope_type": "default", "rope_theta": 5e5}}
_NEOX = {name: value for name, value in _SIZES.items() if name not in ("num_key_value_heads", "rms_norm_eps")}
_NEOX |= {"hidden_size": 48, "num_attention_heads": 3}  # 4 of a head's 16 numbers are rotated
_OPT = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "ffn_dim": 100}
_OPT |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_HEADS = {  # its name in a case -> the end of the class's name, and further fields
    "": ("ForCausalLM", {}),
    "without a head": ("Model", {}),
    "for classes": ("ForSequenceClassification", {"num_labels": 3}),
    "for a number": ("ForSequenceClassification", {"num_labels": 1}),
    "for tags": ("ForTokenClassification", {"num_labels": 4}),
    "for spans": ("ForQuestionAnswering", {}),
}


def _case(name: str, fields: dict[str, Any], ending: str = "ForCausalLM", text: str = "") -> Case:
    """`text`: what the names of Gemma 3's classes have in addition."""
    middle = "" if ending == "ForCausalLM" else text
    return Case(getattr(transformers, f"{name}{middle}{ending}"), getattr(transformers, f"{name}{text}Config")(**fields), std=0.3)


_FAMILIES = {  # name -> transformers' name, fields, and whether it has heads for tags and for spans
    "qwen2": ("Qwen2", _NARROW | _WINDOWS, True, True),
    "qwen3": ("Qwen3", _WIDE | _WINDOWS, True, True),
    "gemma": ("Gemma", _GEMMA, True, False),
    "gemma3": ("Gemma3", _GEMMA3, False, False),
    "smollm3": ("SmolLM3", _NARROW | {"no_rope_layers": [1, 0, 1]}, True, True),
    "olmo2": ("Olmo2", _NARROW, False, False),
    "olmo3": ("Olmo3", _OLMO3 | {"rope_parameters": _OLMO3_ROPE}, False, False),
    "phi3": ("Phi3", _NARROW | {"sliding_window": 5}, True, False),
    "gpt_neox": ("GPTNeoX", _NEOX, True, True),
    "opt": ("OPT", _OPT, False, True),
}
CASES = {
    f"{family} {head}".strip(): _case(name, fields | extra, ending, "Text" if family == "gemma3" else "")
    for family, (name, fields, tags, spans) in _FAMILIES.items()
    for head, (ending, extra) in _HEADS.items()
    if (tags or head != "for tags") and (spans or head != "for spans")
} | {
    "qwen2 without windows": _case("Qwen2", _NARROW),
    "qwen2 tied": _case("Qwen2", _NARROW | {"tie_word_embeddings": True}),
    "qwen2 with yarn": _case("Qwen2", _NARROW | {"rope_parameters": dict(_YARN)}),
    "qwen3 tied": _case("Qwen3", _WIDE | {"tie_word_embeddings": True}),
    "qwen3 with biases": _case("Qwen3", _WIDE | {"attention_bias": True}),
    "gemma untied": _case("Gemma", _GEMMA | {"tie_word_embeddings": False}),
    "gemma3 untied, with a cap of the logits": _case(
        "Gemma3", _GEMMA3 | {"tie_word_embeddings": False, "final_logit_softcapping": 3.0}, text="Text"
    ),
    "gemma3 with longer wavelengths": _case(
        "Gemma3", _GEMMA3 | {"rope_parameters": {_FULL: dict(_LINEAR), _LOCAL: _LOCAL_ROPE}}, text="Text"
    ),
    "gemma3 with other heads": _case("Gemma3", _GEMMA3 | {"query_pre_attn_scalar": 16}, text="Text"),
    "smollm3 untied": _case("SmolLM3", _NARROW | {"tie_word_embeddings": False, "no_rope_layers": [0, 1, 1]}),
    "smollm3 with windows": _case("SmolLM3", _NARROW | {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [1, 0, 1]}),
    "olmo2 tied": _case("Olmo2", _NARROW | {"tie_word_embeddings": True}),
    "olmo2 with full heads": _case("Olmo2", _NARROW | {"num_key_value_heads": 9}),
    "olmo3 tied": _case("Olmo3", _OLMO3 | {"tie_word_embeddings": True}),
    "phi3 tied": _case("Phi3", _NARROW | {"tie_word_embeddings": True, "sliding_window": None}),
    "phi3 rotated in part": _case("Phi3", _NARROW | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    **{  # all texts of the cases are long, or short
        f"phi3 with longrope, {which}": _case(
            "Phi3", _NARROW | {"rope_parameters": dict(_LONGROPE), "original_max_position_embeddings": original}
        )
        for which, original in (("long", 4), ("short", 32))
    },
    "llama with longrope": _case("Llama", _NARROW | {"rope_parameters": _LONGROPE | {"original_max_position_embeddings": 4}}),
    "gpt_neox tied, in sequence": _case("GPTNeoX", _NEOX | {"tie_word_embeddings": True, "use_parallel_residual": False}),
    "gpt_neox with linear scaling": _case("GPTNeoX", _NEOX | {"rope_parameters": _LINEAR | {"partial_rotary_factor": 0.5}}),
    "gpt_neox without biases": _case("GPTNeoX", _NEOX | {"attention_bias": False}),
    "opt untied": _case("OPT", _OPT | {"tie_word_embeddings": False}),
    "opt with norms after": _case("OPT", _OPT | {"do_layer_norm_before": False}),
    "opt without biases": _case("OPT", _OPT | {"enable_bias": False}),
}

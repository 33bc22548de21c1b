"""Mixtral, OLMoE and the mixtures of experts of Qwen 3, with numbers that bite: some experts get no token, and Qwen 3 has dense layers."""

from typing import Any

import transformers
from tiny_references import Case

_SIZES: dict[str, Any] = {"vocab_size": 97, "intermediate_size": 40, "num_key_value_heads": 3, "max_position_embeddings": 64}
_SIZES |= {"num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5}
_NARROW = _SIZES | {"hidden_size": 72, "num_attention_heads": 9}
_WIDE = _SIZES | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
_MIXTRAL = _NARROW | {"num_hidden_layers": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5}
_OLMOE = _NARROW | {"num_experts": 7, "num_experts_per_tok": 3}
_QWEN3 = _WIDE | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True, "mlp_only_layers": [1]}
_QWEN3 |= {"intermediate_size": 100}
_HEADS: dict[str, tuple[str, dict[str, Any]]] = {  # its name in a case -> the end of the class's name, and further fields
    "": ("ForCausalLM", {}),
    "without a head": ("Model", {}),
    "for classes": ("ForSequenceClassification", {"num_labels": 3}),
    "for a number": ("ForSequenceClassification", {"num_labels": 1}),
    "for tags": ("ForTokenClassification", {"num_labels": 4}),
    "for spans": ("ForQuestionAnswering", {}),
}


def _case(name: str, fields: dict[str, Any], ending: str = "ForCausalLM") -> Case:
    return Case(
        getattr(transformers, f"{name}{ending}"), getattr(transformers, f"{name}Config")(**fields), std=0.3 if name == "Mixtral" else 0.35
    )


CASES = {
    f"{family} {head}".strip(): _case(name, fields | extra, ending)
    for family, name, fields in (("mixtral", "Mixtral", _MIXTRAL), ("olmoe", "Olmoe", _OLMOE), ("qwen3_moe", "Qwen3Moe", _QWEN3))
    for head, (ending, extra) in _HEADS.items()
    if family != "olmoe" or head in ("", "without a head")
} | {
    "mixtral tied": _case("Mixtral", _MIXTRAL | {"tie_word_embeddings": True, "sliding_window": None}),
    "mixtral with wider heads": _case("Mixtral", _MIXTRAL | {"head_dim": 12}),
    "mixtral with one expert a token": _case("Mixtral", _MIXTRAL | {"num_experts_per_tok": 1, "num_local_experts": 3}),
    "olmoe normalized": _case("Olmoe", _OLMOE | {"norm_topk_prob": True}),
    "olmoe with all experts": _case("Olmoe", _OLMOE | {"num_experts_per_tok": 7}),
    "olmoe tied": _case("Olmoe", _OLMOE | {"tie_word_embeddings": True}),
    "qwen3_moe with every second layer": _case("Qwen3Moe", _QWEN3 | {"mlp_only_layers": [], "decoder_sparse_step": 2}),
    "qwen3_moe with windows, not normalized": _case(
        "Qwen3Moe", _QWEN3 | {"use_sliding_window": True, "sliding_window": 5, "norm_topk_prob": False, "mlp_only_layers": []}
    ),
    "qwen3_moe with biases": _case("Qwen3Moe", _QWEN3 | {"attention_bias": True, "mlp_only_layers": [0]}),
    "qwen3_moe tied": _case("Qwen3Moe", _QWEN3 | {"tie_word_embeddings": True, "mlp_only_layers": []}),
}

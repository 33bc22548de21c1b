"""Mistral, Gemma 2, SmolLM2, and Llama 3.1's longer wavelengths, with numbers that bite."""

from typing import Any

from tiny_references import Case
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2ForSequenceClassification,
    Gemma2ForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    MistralForQuestionAnswering,
    MistralForSequenceClassification,
)

_COMMON: dict[str, Any] = {"vocab_size": 97, "intermediate_size": 100, "num_key_value_heads": 3, "max_position_embeddings": 64}
_LLAMA = _COMMON | {"hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 9, "rms_norm_eps": 1e-5, "pad_token_id": 0}
_WINDOWED = _COMMON | {"hidden_size": 48, "num_attention_heads": 6, "head_dim": 16, "sliding_window": 5, "pad_token_id": 0}
_MISTRAL = _WINDOWED | {"num_hidden_layers": 2, "rms_norm_eps": 1e-5}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
_GEMMA2 = _WINDOWED | {"num_hidden_layers": 3, "query_pre_attn_scalar": 20} | _CAPS
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
_YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "original_max_position_embeddings": 16}
_YARN_STATED = _YARN | {"beta_fast": 5.0, "beta_slow": 0.5, "attention_factor": 1.5}
_FULL, _LOCAL = "full_attention", "sliding_attention"
CASES = {
    "llama 3.1": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, tie_word_embeddings=True, rope_parameters=dict(_LLAMA3))),
    "llama with linear scaling": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, rope_parameters=dict(_LINEAR))),
    "llama with yarn": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, rope_parameters=dict(_YARN))),
    "llama with yarn as stated": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, rope_parameters=dict(_YARN_STATED))),
    "llama for spans": Case(LlamaForQuestionAnswering, LlamaConfig(**_LLAMA)),
    "mistral for spans": Case(MistralForQuestionAnswering, MistralConfig(**_MISTRAL)),
    "llama for classes": Case(LlamaForSequenceClassification, LlamaConfig(**_LLAMA, num_labels=3)),
    "llama for tags": Case(LlamaForTokenClassification, LlamaConfig(**_LLAMA, num_labels=4)),
    "mistral": Case(MistralForCausalLM, MistralConfig(**_MISTRAL)),
    "mistral with a window of one": Case(MistralForCausalLM, MistralConfig(**_MISTRAL | {"sliding_window": 1})),
    "mistral without a window": Case(MistralForCausalLM, MistralConfig(**_MISTRAL | {"sliding_window": None})),
    "mistral with a window of the length": Case(MistralForCausalLM, MistralConfig(**_MISTRAL | {"sliding_window": 23})),
    "mistral with a window beyond the length": Case(MistralForCausalLM, MistralConfig(**_MISTRAL | {"sliding_window": 50})),
    "mistral without head_dim": Case(MistralForCausalLM, MistralConfig(**_MISTRAL | {"head_dim": None})),
    "mistral for classes": Case(MistralForSequenceClassification, MistralConfig(**_MISTRAL, num_labels=3)),
    "gemma2": Case(Gemma2ForCausalLM, Gemma2Config(**_GEMMA2)),
    "gemma2 without caps": Case(Gemma2ForCausalLM, Gemma2Config(**_GEMMA2 | dict.fromkeys(_CAPS))),
    "gemma2 scaled by its heads": Case(Gemma2ForCausalLM, Gemma2Config(**_GEMMA2 | {"query_pre_attn_scalar": 16})),
    "gemma2 with other layers": Case(Gemma2ForCausalLM, Gemma2Config(**_GEMMA2, layer_types=[_FULL, _LOCAL, _LOCAL])),
    "gemma2 that sees everything": Case(
        Gemma2ForCausalLM, Gemma2Config(**_GEMMA2 | {"sliding_window": 64}, layer_types=[_FULL, _FULL, _FULL])
    ),
    "gemma2 with biases": Case(Gemma2ForCausalLM, Gemma2Config(**_GEMMA2, attention_bias=True)),
    "gemma2 for classes": Case(Gemma2ForSequenceClassification, Gemma2Config(**_GEMMA2 | {"final_logit_softcapping": None}, num_labels=3)),
    "gemma2 for tags": Case(Gemma2ForTokenClassification, Gemma2Config(**_GEMMA2 | {"final_logit_softcapping": None}, num_labels=4)),
}

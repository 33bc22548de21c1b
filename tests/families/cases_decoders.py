"""Decoders, with numbers that bite: windows shorter than the text, parts of heads rotated, experts without a token."""

from typing import Any

from tiny_references import Case, cases_of, named

_GPT = {"vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "bos_token_id": 0, "eos_token_id": 0}
_GPT_CLASSES = {**_GPT, "pad_token_id": 1}
_COMMON: dict[str, Any] = {"vocab_size": 97, "intermediate_size": 100, "num_key_value_heads": 3, "max_position_embeddings": 64}
_LLAMA = _COMMON | {"hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 9, "rms_norm_eps": 1e-5, "pad_token_id": 0}
_LLAMA_ENDS = _LLAMA | {"bos_token_id": 1, "eos_token_id": 2}
_SIZES = _COMMON | {"num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5}
_NARROW = _SIZES | {"hidden_size": 72, "num_attention_heads": 9}  # heads of dim / num_heads
_WIDE = _SIZES | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
_FULL, _LOCAL = "full_attention", "sliding_attention"
_WINDOWED = _COMMON | {"hidden_size": 48, "num_attention_heads": 6, "head_dim": 16, "sliding_window": 5, "pad_token_id": 0}
_MISTRAL = _WINDOWED | {"num_hidden_layers": 2, "rms_norm_eps": 1e-5}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
_GEMMA2 = _WINDOWED | {"num_hidden_layers": 3, "query_pre_attn_scalar": 20} | _CAPS
_GEMMA2_HEADLESS = _GEMMA2 | {"final_logit_softcapping": None}
_GEMMA3 = _WIDE | {"sliding_window": 5, "query_pre_attn_scalar": 20, "layer_types": [_LOCAL, _LOCAL, _FULL]}
_OLMO3 = _NARROW | {"sliding_window": 5, "layer_types": [_LOCAL, _LOCAL, _FULL]}
_NEOX = {name: value for name, value in _SIZES.items() if name not in ("num_key_value_heads", "rms_norm_eps")}
_NEOX |= {"hidden_size": 48, "num_attention_heads": 3}  # 4 of a head's 16 numbers are rotated
_OPT = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "ffn_dim": 100}
_OPT |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_EXPERTS = {"intermediate_size": 40}
_MIXTRAL = _NARROW | _EXPERTS | {"num_hidden_layers": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5}
_OLMOE = _NARROW | _EXPERTS | {"num_experts": 7, "num_experts_per_tok": 3}
_QWEN3_MOE = _WIDE | {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
_QWEN3_MOE |= {"mlp_only_layers": [1]}

_LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 |= {"original_max_position_embeddings": 16}
_LINEAR = {"rope_type": "linear", "rope_theta": 1e5, "factor": 3.0}
_SCALED = 0.25  # std of the weights where attention_factor multiplies the scores: float32 rounds scores of hundreds by 1e-5
_YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.3}
_YARN_SHORT = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "original_max_position_embeddings": 16}
_YARN_STATED = _YARN_SHORT | {"beta_fast": 5.0, "beta_slow": 0.5, "attention_factor": 1.5}
_LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5, 3.0], "long_factor": [1.0, 2.0, 7.0, 30.0], "attention_factor": 1.2}
_LOCAL_ROPE = {"rope_type": "default", "rope_theta": 50.0}
_OLMO3_ROPE = {_FULL: dict(_YARN), _LOCAL: {"rope_type": "default", "rope_theta": 5e5}}

_HEADS: dict[str, tuple[str, dict[str, Any]]] = {  # its name in a case -> the end of the class's name, and further settings
    "": ("ForCausalLM", {}),
    "without a head": ("Model", {}),
    "for classes": ("ForSequenceClassification", {"num_labels": 3}),
    "for a number": ("ForSequenceClassification", {"num_labels": 1}),
    "for tags": ("ForTokenClassification", {"num_labels": 4}),
    "for spans": ("ForQuestionAnswering", {}),
}
_FAMILIES = {  # name -> transformers' name, settings, the heads that its classes lack, and the std of the weights
    "qwen2": ("Qwen2", _NARROW | _WINDOWS, (), 0.3),
    "qwen3": ("Qwen3", _WIDE | _WINDOWS, (), 0.3),
    "gemma": ("Gemma", _WIDE, ("for spans",), 0.3),
    "smollm3": ("SmolLM3", _NARROW | {"no_rope_layers": [1, 0, 1]}, (), 0.3),
    "olmo2": ("Olmo2", _NARROW, ("for tags", "for spans"), 0.3),
    "olmo3": ("Olmo3", _OLMO3 | {"rope_parameters": _OLMO3_ROPE}, ("for tags", "for spans"), 0.3),
    "phi3": ("Phi3", _NARROW | {"sliding_window": 5}, ("for spans",), 0.3),
    "gpt_neox": ("GPTNeoX", _NEOX, (), 0.3),
    "opt": ("OPT", _OPT, ("for tags",), 0.3),
    "mixtral": ("Mixtral", _MIXTRAL, (), 0.3),
    "olmoe": ("Olmoe", _OLMOE, ("for classes", "for a number", "for tags", "for spans"), 0.35),
    "qwen3_moe": ("Qwen3Moe", _QWEN3_MOE, (), 0.35),
}


def _lm(name: str, settings: dict[str, Any], std: float = 0.3, **changes: Any) -> Case:
    return named(name, "ForCausalLM", settings, std=std, **changes)


def _gemma3(ending: str = "ForCausalLM", **changes: Any) -> Case:
    """Return a case of Gemma 3, whose classes and whose configuration have other prefixes than that of the language model."""
    return named("Gemma3" if ending == "ForCausalLM" else "Gemma3Text", ending, _GEMMA3, config="Gemma3Text", std=0.3, **changes)


CASES = {
    "gpt": named("OpenAIGPT", "LMHeadModel", _GPT),
    "gpt untied": named("OpenAIGPT", "LMHeadModel", _GPT, tie_word_embeddings=False),
    "gpt with relu": named("OpenAIGPT", "LMHeadModel", _GPT, afn="relu"),
    "gpt with two heads": named("OpenAIGPT", "DoubleHeadsModel", _GPT),
    "gpt for classes": named("OpenAIGPT", "ForSequenceClassification", _GPT_CLASSES, num_labels=5),
    "gpt2": named("GPT2", "LMHeadModel", _GPT),
    "gpt2 of another inner width": named("GPT2", "LMHeadModel", _GPT, n_inner=50),
    "gpt2 untied": named("GPT2", "LMHeadModel", _GPT, tie_word_embeddings=False),
    "gpt2 with exact gelu": named("GPT2", "LMHeadModel", _GPT, activation_function="gelu"),
    "gpt2 with two heads": named("GPT2", "DoubleHeadsModel", _GPT),
    "gpt2 for classes": named("GPT2", "ForSequenceClassification", _GPT_CLASSES, num_labels=5),
    "gpt2 for tags": named("GPT2", "ForTokenClassification", _GPT, num_labels=5, classifier_dropout=0.2),
    "gpt2 for a reward": named("GPT2", "ForSequenceClassification", _GPT_CLASSES, num_labels=1),
    "llama": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False),
    "llama tied, other theta, as smollm2": _lm(
        "Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5}
    ),
    "llama with one key and value head": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False, num_key_value_heads=1),
    "llama with all key and value heads": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False, num_key_value_heads=9),
    "llama with wider heads": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False, head_dim=12),
    "llama with biases": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "llama ending in several ids": _lm("Llama", _LLAMA_ENDS, 0.35, tie_word_embeddings=False, eos_token_id=[2, 5]),
    "llama 3.1": _lm("Llama", _LLAMA, 0.35, tie_word_embeddings=True, rope_parameters=dict(_LLAMA3)),
    "llama with linear scaling": _lm("Llama", _LLAMA, 0.35, rope_parameters=_LINEAR | {"rope_theta": 1e4}),
    "llama with yarn": _lm("Llama", _LLAMA, 0.35, rope_parameters=dict(_YARN_SHORT)),
    "llama with yarn as stated": _lm("Llama", _LLAMA, 0.35, rope_parameters=dict(_YARN_STATED)),
    "llama with longrope": _lm("Llama", _NARROW, _SCALED, rope_parameters=_LONGROPE | {"original_max_position_embeddings": 4}),
    "llama for spans": named("Llama", "ForQuestionAnswering", _LLAMA),
    "llama for classes": named("Llama", "ForSequenceClassification", _LLAMA, num_labels=3),
    "llama for tags": named("Llama", "ForTokenClassification", _LLAMA, num_labels=4),
    "mistral": _lm("Mistral", _MISTRAL, 0.35),
    "mistral with a window of one": _lm("Mistral", _MISTRAL, 0.35, sliding_window=1),
    "mistral without a window": _lm("Mistral", _MISTRAL, 0.35, sliding_window=None),
    "mistral with a window of the length": _lm("Mistral", _MISTRAL, 0.35, sliding_window=23),
    "mistral with a window beyond the length": _lm("Mistral", _MISTRAL, 0.35, sliding_window=50),
    "mistral without head_dim": _lm("Mistral", _MISTRAL, 0.35, head_dim=None),
    "mistral for classes": named("Mistral", "ForSequenceClassification", _MISTRAL, num_labels=3),
    "mistral for spans": named("Mistral", "ForQuestionAnswering", _MISTRAL),
    "gemma2": _lm("Gemma2", _GEMMA2, 0.35),
    "gemma2 without caps": _lm("Gemma2", _GEMMA2, 0.35, **dict.fromkeys(_CAPS)),
    "gemma2 scaled by its heads": _lm("Gemma2", _GEMMA2, 0.35, query_pre_attn_scalar=16),
    "gemma2 with other layers": _lm("Gemma2", _GEMMA2, 0.35, layer_types=[_FULL, _LOCAL, _LOCAL]),
    "gemma2 that sees everything": _lm("Gemma2", _GEMMA2, 0.35, sliding_window=64, layer_types=[_FULL, _FULL, _FULL]),
    "gemma2 with biases": _lm("Gemma2", _GEMMA2, 0.35, attention_bias=True),
    "gemma2 for classes": named("Gemma2", "ForSequenceClassification", _GEMMA2_HEADLESS, num_labels=3),
    "gemma2 for tags": named("Gemma2", "ForTokenClassification", _GEMMA2_HEADLESS, num_labels=4),
    **{
        name: case
        for family, (prefix, settings, lacking, std) in _FAMILIES.items()
        for name, case in cases_of(
            family, prefix, settings, {head: more for head, more in _HEADS.items() if head not in lacking}, std=std
        ).items()
    },
    **{
        f"gemma3 {name}".strip(): _gemma3(ending, **more)
        for name, (ending, more) in _HEADS.items()
        if name not in ("for tags", "for spans")
    },
    "gemma3 untied, with a cap of the logits": _gemma3(tie_word_embeddings=False, final_logit_softcapping=3.0),
    "gemma3 with longer wavelengths": _gemma3(rope_parameters={_FULL: dict(_LINEAR), _LOCAL: _LOCAL_ROPE}),
    "gemma3 with other heads": _gemma3(query_pre_attn_scalar=16),
    "qwen2 without windows": _lm("Qwen2", _NARROW),
    "qwen2 tied": _lm("Qwen2", _NARROW, tie_word_embeddings=True),
    "qwen2 with yarn": _lm("Qwen2", _NARROW, _SCALED, rope_parameters=dict(_YARN)),
    "qwen3 tied": _lm("Qwen3", _WIDE, tie_word_embeddings=True),
    "qwen3 with biases": _lm("Qwen3", _WIDE, attention_bias=True),
    "gemma untied": _lm("Gemma", _WIDE, tie_word_embeddings=False),
    "smollm3 untied": _lm("SmolLM3", _NARROW, tie_word_embeddings=False, no_rope_layers=[0, 1, 1]),
    "smollm3 with windows": _lm("SmolLM3", _NARROW, use_sliding_window=True, sliding_window=5, no_rope_layers=[1, 0, 1]),
    "olmo2 tied": _lm("Olmo2", _NARROW, tie_word_embeddings=True),
    "olmo2 with full heads": _lm("Olmo2", _NARROW, num_key_value_heads=9),
    "olmo3 tied": _lm("Olmo3", _OLMO3, tie_word_embeddings=True),
    "phi3 tied": _lm("Phi3", _NARROW, tie_word_embeddings=True, sliding_window=None),
    "phi3 rotated in part": _lm("Phi3", _NARROW, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
    **{  # all texts of the cases are long, or short
        f"phi3 with longrope, {which}": _lm(
            "Phi3", _NARROW, _SCALED, rope_parameters=dict(_LONGROPE), original_max_position_embeddings=original
        )
        for which, original in (("long", 4), ("short", 32))
    },
    "gpt_neox tied, in sequence": _lm("GPTNeoX", _NEOX, tie_word_embeddings=True, use_parallel_residual=False),
    "gpt_neox with linear scaling": _lm("GPTNeoX", _NEOX, rope_parameters=_LINEAR | {"partial_rotary_factor": 0.5}),
    "gpt_neox without biases": _lm("GPTNeoX", _NEOX, attention_bias=False),
    "opt untied": _lm("OPT", _OPT, tie_word_embeddings=False),
    "opt with norms after": _lm("OPT", _OPT, do_layer_norm_before=False),
    "opt without biases": _lm("OPT", _OPT, enable_bias=False),
    "mixtral tied": _lm("Mixtral", _MIXTRAL, tie_word_embeddings=True, sliding_window=None),
    "mixtral with wider heads": _lm("Mixtral", _MIXTRAL, head_dim=12),
    "mixtral with one expert a token": _lm("Mixtral", _MIXTRAL, num_experts_per_tok=1, num_local_experts=3),
    "olmoe normalized": _lm("Olmoe", _OLMOE, 0.35, norm_topk_prob=True),
    "olmoe with all experts": _lm("Olmoe", _OLMOE, 0.35, num_experts_per_tok=7),
    "olmoe tied": _lm("Olmoe", _OLMOE, 0.35, tie_word_embeddings=True),
    "qwen3_moe with every second layer": _lm("Qwen3Moe", _QWEN3_MOE, 0.35, mlp_only_layers=[], decoder_sparse_step=2),
    "qwen3_moe with windows, not normalized": _lm(
        "Qwen3Moe", _QWEN3_MOE, 0.35, use_sliding_window=True, sliding_window=5, norm_topk_prob=False, mlp_only_layers=[]
    ),
    "qwen3_moe with biases": _lm("Qwen3Moe", _QWEN3_MOE, 0.35, attention_bias=True, mlp_only_layers=[0]),
    "qwen3_moe tied": _lm("Qwen3Moe", _QWEN3_MOE, 0.35, tie_word_embeddings=True, mlp_only_layers=[]),
}

"""GPT-2 and Llama."""

from tiny_references import Case
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

_GPT2 = {"vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA = {
    "vocab_size": 97,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_THETA = {"rope_type": "default", "rope_theta": 1e5}
CASES = {
    "gpt2": Case(GPT2LMHeadModel, GPT2Config(**_GPT2)),
    "gpt2 of another inner width": Case(GPT2LMHeadModel, GPT2Config(**_GPT2, n_inner=50)),
    "gpt2 untied": Case(GPT2LMHeadModel, GPT2Config(**_GPT2, tie_word_embeddings=False)),
    "gpt2 with exact gelu": Case(GPT2LMHeadModel, GPT2Config(**_GPT2, activation_function="gelu")),
    "llama": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA)),
    "llama tied, other theta, as smollm2": Case(
        LlamaForCausalLM, LlamaConfig(**_LLAMA | {"tie_word_embeddings": True, "rope_parameters": _THETA})
    ),
    "llama with one key and value head": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA | {"num_key_value_heads": 1})),
    "llama with all key and value heads": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA | {"num_key_value_heads": 9})),
    "llama with wider heads": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, head_dim=12)),
    "llama with biases": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA, attention_bias=True, mlp_bias=True)),
    "llama ending in several ids": Case(LlamaForCausalLM, LlamaConfig(**_LLAMA | {"eos_token_id": [2, 5]})),
}

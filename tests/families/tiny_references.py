"""Tiny models of transformers with numbers that bite: three heads a group, an odd vocabulary, weights large enough to show a mistake."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

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
CONFIGS = {
    "gpt2": GPT2Config(**_GPT2),
    "gpt2 of another inner width": GPT2Config(**_GPT2, n_inner=50),
    "gpt2 untied": GPT2Config(**_GPT2, tie_word_embeddings=False),
    "gpt2 with exact gelu": GPT2Config(**_GPT2, activation_function="gelu"),
    "llama": LlamaConfig(**_LLAMA),
    "llama tied, other theta, as smollm2": LlamaConfig(**_LLAMA | {"tie_word_embeddings": True, "rope_parameters": _THETA}),
    "llama with one key and value head": LlamaConfig(**_LLAMA | {"num_key_value_heads": 1}),
    "llama with all key and value heads": LlamaConfig(**_LLAMA | {"num_key_value_heads": 9}),
    "llama with wider heads": LlamaConfig(**_LLAMA, head_dim=12),
    "llama with biases": LlamaConfig(**_LLAMA, attention_bias=True, mlp_bias=True),
    "llama ending in several ids": LlamaConfig(**_LLAMA | {"eos_token_id": [2, 5]}),
}
LARGE, SMALL = 0.35, 0.02  # at std 0.02 a wrong gelu changes logits by 1e-6, and a wrong eps by 1e-3
TOLERANCE = 1e-4

IDS = torch.tensor([[(7 * t + 3 * b + 5) % 83 + 3 for t in range(23)] for b in range(2)])  # (2, 23)


def reference(case: str, std: float = LARGE) -> PreTrainedModel:
    """A random model: matrices and biases normal, norms around 1."""
    config = CONFIGS[case]
    model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, std, generator=generator)
    return model


def save_reference(folder: Path, case: str, std: float = LARGE) -> PreTrainedModel:
    """The model, written into `folder` by transformers itself."""
    model = reference(case, std)
    model.save_pretrained(folder)
    return model


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max())

"""The layouts of a GPT-2, a Llama and a BERT as values of a model's config, to which a test adds its sizes."""

from typing import Any

GPT2_LAYOUT: dict[str, Any] = {
    "position": {"kind": "learned"},
    "norm": {"kind": "layer"},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "gelu_tanh", "bias": True},
    "head": {"tied": True},
}
LLAMA_LAYOUT: dict[str, Any] = {
    "position": {"kind": "rotary"},
    "norm": {"kind": "rms"},
    "mlp": {"activation": "silu", "gated": True},
    "head": {"tied": False},
}
BERT_LAYOUT: dict[str, Any] = {
    "embedding": {"norm": True, "segments": 2},
    "position": {"kind": "learned"},
    "norm": {"kind": "layer", "placement": "post"},
    "attention": {"qkv_bias": True, "out_bias": True},
    "mlp": {"activation": "gelu", "bias": True},
    "head": {"kind": "masked_lm", "tied": True},
}
TINY_GPT2: dict[str, Any] = GPT2_LAYOUT | {"decoder_layers": 2, "dim": 24, "hidden_dim": 44, "num_heads": 3, "init": {"std": 0.3}}

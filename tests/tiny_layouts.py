"""The layouts of a GPT-2 and of a Llama as values of a model's config, to which a test adds its sizes."""

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
TINY_GPT2: dict[str, Any] = GPT2_LAYOUT | {"decoder_layers": 2, "dim": 24, "hidden_dim": 44, "num_heads": 3, "init": {"std": 0.3}}

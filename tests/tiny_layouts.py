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

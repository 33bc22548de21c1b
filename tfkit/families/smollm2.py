"""SmolLM2 (Ben Allal et al. 2025, arXiv 2502.02737).

Llama's architecture at sizes for a phone. New is the data: trillions of tokens for a small model, the best of them last, while the
learning rate decays to 0 (warmup, stable, decay). Embeddings are tied, and still a fifth of the smallest model. Matrices start with a std
of 1 / sqrt(dim); those that write to the residual stream are smaller by sqrt(2 * layers).
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama


def _size(dim: int, **sizes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 49152,
        "context_length": 8192,
        "dim": dim,
        "num_kv_heads": None,
        "head_dim": None,  # 64
        "position": {"kind": "rotary", "theta": 1e5},
        "norm": {"kind": "rms", "eps": 1e-5},
        "mlp": {"activation": "silu", "gated": True, "bias": False},
        "head": {"kind": "lm", "tied": True},
        "init": {"std": dim**-0.5, "residual_scaling": True},
        **sizes,
    }


# As released. The largest was trained with theta 1e4 at 2,048 tokens, and then extended.
PRESETS = {
    "smollm2-135m": _size(576, decoder_layers=30, hidden_dim=1536, num_heads=9, num_kv_heads=3),
    "smollm2-360m": _size(960, decoder_layers=32, hidden_dim=2560, num_heads=15, num_kv_heads=5),
    "smollm2-1.7b": _size(2048, decoder_layers=24, hidden_dim=8192, num_heads=32, position={"kind": "rotary", "theta": 1.3e5}),
}

FAMILY = replace(llama.FAMILY, name="smollm2", presets=PRESETS)

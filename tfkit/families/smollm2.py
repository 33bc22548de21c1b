"""SmolLM2 (Ben Allal et al. 2025, arXiv 2502.02737).

The architecture is Llama's, at sizes for a phone. New is the data: trillions of tokens for a small model, the best of them last, while the
learning rate decays to 0 (warmup, stable, decay). Embeddings are tied, and still a fifth of the smallest model's parameters.
Matrices start with a std of 1 / sqrt(dim), which is divided by sqrt(2 * layers) for those that write to the residual stream.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import llama


def _size(dim: int, layers: int, heads: int, kv_heads: int, hidden_dim: int, theta: float = 1e5) -> dict[str, Any]:
    values = {
        "vocab_size": 49152,
        "context_length": 8192,
        "position": {"kind": "rotary", "theta": theta},
        "head": {"kind": "lm", "tied": True},
    }
    return llama.size(dim, layers, heads, kv_heads, hidden_dim, **values, init={"std": dim**-0.5, "residual_scaling": True})


# As released. The largest was trained with theta 1e4 at 2,048 tokens, and afterwards with 1.3e5 for a longer context.
PRESETS = {
    "smollm2-135m": _size(576, 30, 9, 3, 1536),
    "smollm2-360m": _size(960, 32, 15, 5, 2560),
    "smollm2-1.7b": _size(2048, 24, 32, 32, 8192, theta=1.3e5),
}

FAMILY = replace(llama.FAMILY, name="smollm2", presets=PRESETS)

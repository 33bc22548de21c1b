"""ByT5 (Xue et al. 2021, arXiv 2105.13626).

mT5 on bytes: the vocabulary has the 256 bytes and special tokens, so that most parameters are in the blocks, of which the encoder has three
times as many as the decoder. The layout is T5's.
"""

from dataclasses import replace
from typing import Any

from tfkit.families import t5


def _preset(layers: tuple[int, int], dim: int, heads: int, hidden_dim: int) -> dict[str, Any]:
    encoder, decoder = layers
    sizes = {"encoder_layers": encoder, "decoder_layers": decoder, "dim": dim, "num_heads": heads, "hidden_dim": hidden_dim}
    return t5.PRESETS["t5-v1.1-small"] | sizes | {"vocab_size": 384, "context_length": 1024}  # 3 special tokens, 256 bytes, 125 sentinels


# Sizes: table 1.
PRESETS = {
    "byt5-small": _preset((12, 4), 1472, 6, 3584),
    "byt5-base": _preset((18, 6), 1536, 12, 3968),
    "byt5-large": _preset((36, 12), 1536, 16, 3840),
    "byt5-xl": _preset((36, 12), 2560, 32, 6720),
    "byt5-xxl": _preset((36, 12), 4672, 64, 12352),
}

FAMILY = replace(t5.FAMILY, name="byt5", presets=PRESETS)

"""Tiny encoder-decoders for the tests of their objectives: T5 1.1 and the Transformer of 2017, from their presets."""

from typing import Any

from tfkit.families import PRESETS
from tfkit.recipe.presets import merge

SIZES: dict[str, Any] = {"vocab_size": 300, "context_length": 24, "encoder_layers": 2, "decoder_layers": 3, "dim": 24, "num_heads": 3}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": merge(PRESETS["t5-v1.1-small"][1], SIZES | {"head_dim": 6, "hidden_dim": 36, "position": {"kind": "relative", "buckets": 8}}),
    "2017": merge(
        PRESETS["transformer-2017-base"][1], SIZES | {"decoder_layers": 2, "hidden_dim": 44, "dropout": {"embedding": 0, "residual": 0}}
    ),
}
"""By the kind of class that computes them: T5ForConditionalGeneration and MarianMTModel."""

"""BART and mBART: positions and norms of each stack's own."""

from typing import Any

from tiny_references import Case
from transformers import BartConfig, BartForConditionalGeneration, MBartConfig, MBartForConditionalGeneration

_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 44,
    "decoder_ffn_dim": 44,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 2,
}
CASES = {
    "bart": Case(BartForConditionalGeneration, BartConfig(**_SIZES)),
    "bart of other settings": Case(
        BartForConditionalGeneration,
        BartConfig(**_SIZES, scale_embedding=True, activation_function="relu", classifier_dropout=0.3, activation_dropout=0.2),
    ),
    "mbart": Case(MBartForConditionalGeneration, MBartConfig(**_SIZES, scale_embedding=True)),
}

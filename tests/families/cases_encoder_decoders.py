"""T5, mT5, and the Transformer of 2017 as Marian."""

from tiny_references import Case
from transformers import (
    MarianConfig,
    MarianMTModel,
    MT5Config,
    MT5ForConditionalGeneration,
    MT5ForTokenClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForTokenClassification,
)

_T5 = {
    "vocab_size": 97,
    "d_model": 20,
    "d_kv": 6,  # three heads of 6 are not 20
    "d_ff": 36,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "n_positions": 64,
    "bos_token_id": None,
}
_ENCODER = _T5 | {"num_decoder_layers": None, "is_encoder_decoder": False}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_MARIAN = {
    "vocab_size": 97,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 44,
    "decoder_ffn_dim": 44,
    "activation_function": "relu",
    "scale_embedding": True,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "max_position_embeddings": 40,
}
CASES = {
    "t5 1.0": Case(T5ForConditionalGeneration, T5Config(**_T5)),
    "t5 1.1": Case(T5ForConditionalGeneration, T5Config(**_T5, **_GATED), untied=True),
    "t5 1.1 tied, as transformers 5 makes it": Case(T5ForConditionalGeneration, T5Config(**_T5, **_GATED)),
    "t5 with as many layers in both stacks": Case(T5ForConditionalGeneration, T5Config(**_T5 | {"num_decoder_layers": None})),
    "t5 with ten buckets": Case(T5ForConditionalGeneration, T5Config(**_T5 | {"relative_attention_num_buckets": 10})),
    "t5 with a gated silu": Case(T5ForConditionalGeneration, T5Config(**_T5, feed_forward_proj="gated-silu")),
    "t5's encoder for tags": Case(T5ForTokenClassification, T5Config(**_ENCODER, num_labels=4)),
    "t5's encoder without a head": Case(T5EncoderModel, T5Config(**_ENCODER)),
    "mt5's encoder for tags": Case(MT5ForTokenClassification, MT5Config(**_ENCODER, num_labels=4)),
    "mt5": Case(MT5ForConditionalGeneration, MT5Config(**_T5), untied=True),
    "mt5 tied, as transformers 5 makes it": Case(MT5ForConditionalGeneration, MT5Config(**_T5)),
    "transformer of 2017": Case(MarianMTModel, MarianConfig(**_MARIAN)),
    "transformer of 2017 with gelu and unscaled embeddings": Case(
        MarianMTModel, MarianConfig(**_MARIAN | {"scale_embedding": False, "activation_function": "gelu"})
    ),
}

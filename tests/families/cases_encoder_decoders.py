"""T5, mT5, the Transformer of 2017 as Marian, BART and mBART."""

from tiny_references import named

_T5 = {"vocab_size": 97, "d_model": 20, "d_kv": 6, "d_ff": 36, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3}  # 3 of 6: not 20
_T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0, "n_positions": 64}
_T5 |= {"bos_token_id": None}
_ENCODER = _T5 | {"num_decoder_layers": None, "is_encoder_decoder": False}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BLOCKS = {"vocab_size": 97, "d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3, "decoder_attention_heads": 3}
_BLOCKS |= {"encoder_ffn_dim": 44, "decoder_ffn_dim": 44, "max_position_embeddings": 40}
_MARIAN = _BLOCKS | {"decoder_layers": 2, "activation_function": "relu", "scale_embedding": True}
_MARIAN |= {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": 1}
_BART = _BLOCKS | {"decoder_layers": 3, "decoder_start_token_id": 2}
_OTHER = {"scale_embedding": True, "activation_function": "relu", "classifier_dropout": 0.3, "activation_dropout": 0.2}
_LM = "ForConditionalGeneration"
CASES = {
    "t5 1.0": named("T5", _LM, _T5),
    "t5 1.1": named("T5", _LM, _T5 | _GATED, untied=True),
    "t5 1.1 tied, as transformers 5 makes it": named("T5", _LM, _T5 | _GATED),
    "t5 with as many layers in both stacks": named("T5", _LM, _T5, num_decoder_layers=None),
    "t5 with ten buckets": named("T5", _LM, _T5, relative_attention_num_buckets=10),
    "t5 with a gated silu": named("T5", _LM, _T5, feed_forward_proj="gated-silu"),
    "t5's encoder for tags": named("T5", "ForTokenClassification", _ENCODER, num_labels=4),
    "t5's encoder without a head": named("T5", "EncoderModel", _ENCODER),
    "mt5's encoder for tags": named("MT5", "ForTokenClassification", _ENCODER, num_labels=4),
    "mt5": named("MT5", _LM, _T5, untied=True),
    "mt5 tied, as transformers 5 makes it": named("MT5", _LM, _T5),
    "transformer of 2017": named("Marian", "MTModel", _MARIAN),
    "transformer of 2017 with gelu and unscaled embeddings": named(
        "Marian", "MTModel", _MARIAN, scale_embedding=False, activation_function="gelu"
    ),
    "bart": named("Bart", _LM, _BART),
    "bart of other settings": named("Bart", _LM, _BART | _OTHER),
    "mbart": named("MBart", _LM, _BART, scale_embedding=True),
}

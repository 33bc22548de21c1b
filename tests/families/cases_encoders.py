"""Encoders, each with the heads of its classes: positions of RoBERTa's kind, ELECTRA's narrow token vectors, ModernBERT's windows."""

from typing import Any

from tiny_references import cases_of, named

_SIZES: dict[str, Any] = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 52}
_SIZES |= {"max_position_embeddings": 40}
_DISTILBERT = {"vocab_size": 97, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 52, "max_position_embeddings": 40}
_BERT_OTHER = {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}
_BERT_OTHER |= {"hidden_dropout_prob": 0.2, "classifier_dropout": 0.3}
_ROBERTA = _SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}  # positions begin at the id of padding + 1
_DEBERTA = _SIZES | {"relative_attention": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_DEBERTA |= {"pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "max_relative_positions": 16}  # fewer vectors than distances
_MODERNBERT = _SIZES | {"num_hidden_layers": 3, "local_attention": 4}  # a window that reaches two tokens to either side
_MODERNBERT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
_FULL, _LOCAL = "full_attention", "sliding_attention"
_ROTARY = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in ((_FULL, 50.0), (_LOCAL, 20.0))}
_HEADS: dict[str, tuple[str, dict[str, Any]]] = {  # its name in a case -> the end of the class's name, and further settings
    "": ("ForMaskedLM", {}),
    "for classes": ("ForSequenceClassification", {"num_labels": 3}),
    "for a number": ("ForSequenceClassification", {"num_labels": 1}),
    "for tags": ("ForTokenClassification", {"num_labels": 5}),
    "for answers": ("ForQuestionAnswering", {}),
    "without a head": ("Model", {}),
}
_WITHOUT_NUMBER = {name: head for name, head in _HEADS.items() if name != "for a number"}  # where another family has the same class
CASES = {
    **cases_of("bert", "Bert", _SIZES, _HEADS | {"": ("ForPreTraining", {}), "without next sentence": ("ForMaskedLM", {})}),
    "bert untied": named("Bert", "ForMaskedLM", _SIZES, tie_word_embeddings=False),
    "bert of other settings": named("Bert", "ForPreTraining", _SIZES | _BERT_OTHER),
    **cases_of("distilbert", "DistilBert", _DISTILBERT, _WITHOUT_NUMBER),
    "distilbert untied": named("DistilBert", "ForMaskedLM", _DISTILBERT, tie_word_embeddings=False),
    "distilbert with relu": named("DistilBert", "ForMaskedLM", _DISTILBERT, activation="relu", dropout=0.2),
    **cases_of("roberta", "Roberta", _ROBERTA, _HEADS),
    "roberta untied": named("Roberta", "ForMaskedLM", _ROBERTA, tie_word_embeddings=False),
    "roberta of other settings": named("Roberta", "ForMaskedLM", _ROBERTA, pad_token_id=2, type_vocab_size=2, classifier_dropout=0.3),
    **cases_of("xlm-roberta", "XLMRoberta", _ROBERTA, _WITHOUT_NUMBER),
    **cases_of("camembert", "Camembert", _ROBERTA, _WITHOUT_NUMBER),
    **cases_of("electra", "Electra", _SIZES | {"embedding_size": 10}, _HEADS),
    "electra untied": named("Electra", "ForMaskedLM", _SIZES, embedding_size=10, tie_word_embeddings=False),
    "electra as wide as its token vectors": named("Electra", "ForMaskedLM", _SIZES, embedding_size=24, classifier_dropout=0.3),
    **cases_of("mpnet", "MPNet", _SIZES, _WITHOUT_NUMBER),
    "mpnet untied": named("MPNet", "ForMaskedLM", _SIZES, tie_word_embeddings=False),
    **cases_of("deberta", "DebertaV2", _DEBERTA, _HEADS),
    "deberta untied": named("DebertaV2", "ForMaskedLM", _DEBERTA, tie_word_embeddings=False),
    "deberta of other settings": named(
        "DebertaV2", "ForMaskedLM", _DEBERTA, hidden_act="relu", type_vocab_size=2, position_buckets=32, max_relative_positions=64
    ),
    **cases_of("modernbert", "ModernBert", _MODERNBERT, _HEADS),
    "modernbert untied": named("ModernBert", "ForMaskedLM", _MODERNBERT, tie_word_embeddings=False),
    "modernbert of other settings": named(
        "ModernBert", "ForMaskedLM", _MODERNBERT, rope_parameters=_ROTARY, hidden_activation="silu", classifier_activation="silu"
    ),
    "modernbert with other layers": named("ModernBert", "ForMaskedLM", _MODERNBERT, layer_types=[_LOCAL, _LOCAL, _FULL]),
    "modernbert that sees everything": named("ModernBert", "ForMaskedLM", _MODERNBERT, layer_types=[_FULL] * 3, local_attention=128),
    "modernbert for classes of the mean": named(
        "ModernBert", "ForSequenceClassification", _MODERNBERT, num_labels=3, classifier_pooling="mean"
    ),
}

"""BERT and DistilBERT, with each of their heads."""

from tiny_references import Case
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)

_BERT = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
}
_DISTILBERT = {"vocab_size": 97, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 52, "max_position_embeddings": 40}
_OTHER = {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.2, "classifier_dropout": 0.3}
CASES = {
    "bert": Case(BertForPreTraining, BertConfig(**_BERT)),
    "bert without next sentence": Case(BertForMaskedLM, BertConfig(**_BERT)),
    "bert untied": Case(BertForMaskedLM, BertConfig(**_BERT, tie_word_embeddings=False)),
    "bert of other settings": Case(BertForPreTraining, BertConfig(**_BERT, **_OTHER)),
    "bert for classes": Case(BertForSequenceClassification, BertConfig(**_BERT, num_labels=3)),
    "bert for a number": Case(BertForSequenceClassification, BertConfig(**_BERT, num_labels=1)),
    "bert for tags": Case(BertForTokenClassification, BertConfig(**_BERT, num_labels=5)),
    "bert for answers": Case(BertForQuestionAnswering, BertConfig(**_BERT)),
    "bert without a head": Case(BertModel, BertConfig(**_BERT)),
    "distilbert": Case(DistilBertForMaskedLM, DistilBertConfig(**_DISTILBERT)),
    "distilbert untied": Case(DistilBertForMaskedLM, DistilBertConfig(**_DISTILBERT, tie_word_embeddings=False)),
    "distilbert with relu": Case(DistilBertForMaskedLM, DistilBertConfig(**_DISTILBERT, activation="relu", dropout=0.2)),
    "distilbert for classes": Case(DistilBertForSequenceClassification, DistilBertConfig(**_DISTILBERT, num_labels=3)),
    "distilbert for tags": Case(DistilBertForTokenClassification, DistilBertConfig(**_DISTILBERT, num_labels=5)),
    "distilbert for answers": Case(DistilBertForQuestionAnswering, DistilBertConfig(**_DISTILBERT)),
    "distilbert without a head": Case(DistilBertModel, DistilBertConfig(**_DISTILBERT)),
}

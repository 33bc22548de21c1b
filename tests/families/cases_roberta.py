"""RoBERTa, XLM-R and CamemBERT, with each of their heads; positions begin at the id of padding + 1."""

from typing import Any

import transformers
from tiny_references import Case

_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def _case(prefix: str, head: str, **changes: Any) -> Case:
    return Case(getattr(transformers, f"{prefix}{head}"), getattr(transformers, f"{prefix}Config")(**_SIZES | changes))


CASES = {
    "roberta": _case("Roberta", "ForMaskedLM"),
    "roberta untied": _case("Roberta", "ForMaskedLM", tie_word_embeddings=False),
    "roberta of other settings": _case("Roberta", "ForMaskedLM", pad_token_id=2, type_vocab_size=2, classifier_dropout=0.3),
    "roberta for classes": _case("Roberta", "ForSequenceClassification", num_labels=3),
    "roberta for a number": _case("Roberta", "ForSequenceClassification", num_labels=1),
    "roberta for tags": _case("Roberta", "ForTokenClassification", num_labels=5),
    "roberta for answers": _case("Roberta", "ForQuestionAnswering"),
    "roberta without a head": _case("Roberta", "Model"),
    "xlm-roberta": _case("XLMRoberta", "ForMaskedLM"),
    "xlm-roberta for classes": _case("XLMRoberta", "ForSequenceClassification", num_labels=3),
    "xlm-roberta for tags": _case("XLMRoberta", "ForTokenClassification", num_labels=5),
    "xlm-roberta for answers": _case("XLMRoberta", "ForQuestionAnswering"),
    "xlm-roberta without a head": _case("XLMRoberta", "Model"),
    "camembert": _case("Camembert", "ForMaskedLM"),
    "camembert for classes": _case("Camembert", "ForSequenceClassification", num_labels=3),
    "camembert for tags": _case("Camembert", "ForTokenClassification", num_labels=5),
    "camembert for answers": _case("Camembert", "ForQuestionAnswering"),
    "camembert without a head": _case("Camembert", "Model"),
}

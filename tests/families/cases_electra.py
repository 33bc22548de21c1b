"""ELECTRA, with narrower token vectors and without, and MPNet, with each of their heads."""

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
}


def _case(prefix: str, head: str, **changes: Any) -> Case:
    further = {"embedding_size": 10} if prefix == "Electra" else {}
    return Case(getattr(transformers, f"{prefix}{head}"), getattr(transformers, f"{prefix}Config")(**_SIZES | further | changes))


CASES = {
    "electra": _case("Electra", "ForMaskedLM"),
    "electra untied": _case("Electra", "ForMaskedLM", tie_word_embeddings=False),
    "electra as wide as its token vectors": _case("Electra", "ForMaskedLM", embedding_size=24, classifier_dropout=0.3),
    "electra for classes": _case("Electra", "ForSequenceClassification", num_labels=3),
    "electra for a number": _case("Electra", "ForSequenceClassification", num_labels=1),
    "electra for tags": _case("Electra", "ForTokenClassification", num_labels=5),
    "electra for answers": _case("Electra", "ForQuestionAnswering"),
    "electra without a head": _case("Electra", "Model"),
    "mpnet": _case("MPNet", "ForMaskedLM"),
    "mpnet untied": _case("MPNet", "ForMaskedLM", tie_word_embeddings=False),
    "mpnet for classes": _case("MPNet", "ForSequenceClassification", num_labels=3),
    "mpnet for tags": _case("MPNet", "ForTokenClassification", num_labels=5),
    "mpnet for answers": _case("MPNet", "ForQuestionAnswering"),
    "mpnet without a head": _case("MPNet", "Model"),
}

"""DeBERTa v3, with each of its heads, and fewer vectors of distances than the text has distances."""

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
    "relative_attention": True,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "max_relative_positions": 16,
}


def _case(head: str, **changes: Any) -> Case:
    return Case(getattr(transformers, f"DebertaV2{head}"), transformers.DebertaV2Config(**_SIZES | changes))


CASES = {
    "deberta": _case("ForMaskedLM"),
    "deberta untied": _case("ForMaskedLM", tie_word_embeddings=False),
    "deberta of other settings": _case("ForMaskedLM", hidden_act="relu", type_vocab_size=2, position_buckets=32, max_relative_positions=64),
    "deberta for classes": _case("ForSequenceClassification", num_labels=3),
    "deberta for a number": _case("ForSequenceClassification", num_labels=1),
    "deberta for tags": _case("ForTokenClassification", num_labels=5),
    "deberta for answers": _case("ForQuestionAnswering"),
    "deberta without a head": _case("Model"),
}

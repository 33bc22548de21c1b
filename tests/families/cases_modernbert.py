"""ModernBERT, with each of its heads, and a window that reaches two tokens to either side."""

from typing import Any

import transformers
from tiny_references import Case

_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 40,
    "local_attention": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
_FULL, _LOCAL = "full_attention", "sliding_attention"
_ROTARY = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in ((_FULL, 50.0), (_LOCAL, 20.0))}


def _case(head: str, **changes: Any) -> Case:
    return Case(getattr(transformers, f"ModernBert{head}"), transformers.ModernBertConfig(**_SIZES | changes))


CASES = {
    "modernbert": _case("ForMaskedLM"),
    "modernbert untied": _case("ForMaskedLM", tie_word_embeddings=False),
    "modernbert of other settings": _case("ForMaskedLM", rope_parameters=_ROTARY, hidden_activation="silu", classifier_activation="silu"),
    "modernbert with other layers": _case("ForMaskedLM", layer_types=[_LOCAL, _LOCAL, _FULL]),
    "modernbert that sees everything": _case("ForMaskedLM", layer_types=[_FULL] * 3, local_attention=128),
    "modernbert for classes": _case("ForSequenceClassification", num_labels=3),
    "modernbert for classes of the mean": _case("ForSequenceClassification", num_labels=3, classifier_pooling="mean"),
    "modernbert for a number": _case("ForSequenceClassification", num_labels=1),
    "modernbert for tags": _case("ForTokenClassification", num_labels=5),
    "modernbert for answers": _case("ForQuestionAnswering"),
    "modernbert without a head": _case("Model"),
}

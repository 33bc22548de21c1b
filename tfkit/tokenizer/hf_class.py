"""The `transformers` class of a saved tokenizer. A specific class builds all but the entries itself and ignores tokenizer.json, so it
is named only if it would build exactly this tokenizer. The generic class PreTrainedTokenizerFast follows tokenizer.json.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

from tfkit.recipe.schema.vocabularies import VOCABULARIES
from tfkit.tokenizer import pipelines

GENERIC = "PreTrainedTokenizerFast"


class _Class(NamedTuple):
    """A tokenizer class. `build` returns its pipeline without entries, given a tokenizer's normalizer; `roles`: its special tokens."""

    build: Callable[[Mapping[str, Any]], Backend]
    roles: Mapping[str, str]


def _bert(normalizer: Mapping[str, Any]) -> Backend:
    return pipelines.wordpiece({}, pipelines.bert_normalizer(normalizer.get("lowercase", True), normalizer.get("strip_accents")))


_CLASSES = {
    "BertTokenizer": _Class(_bert, VOCABULARIES["wordpiece"][None].roles),
    "OpenAIGPTTokenizer": _Class(lambda _: pipelines.bpe_eow({}, []), VOCABULARIES["bpe_eow"][None].roles),
    "T5Tokenizer": _Class(lambda _: pipelines.unigram([(piece, 0.0) for piece in "abc"]), VOCABULARIES["unigram"][None].roles),
    "LlamaTokenizer": _Class(lambda _: pipelines.llama_bpe({}, []), VOCABULARIES["bpe_byte_fallback"]["llama"].roles),
    "GemmaTokenizer": _Class(lambda _: pipelines.gemma_bpe({}, []), VOCABULARIES["bpe_byte_fallback"]["gemma"].roles),
}


def class_settings(tokenizer_json: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `tokenizer_class` and the arguments of its constructor for tokenizer_config.json; `settings`: special tokens by role."""
    document = json.loads(tokenizer_json)
    roles = {role: token for role, token in settings.items() if role.endswith("_token")}
    normalizer = document.get("normalizer") or {}
    for name, kind in _CLASSES.items():
        if roles == kind.roles and _pipeline(document) == _pipeline(json.loads(kind.build(normalizer).to_str())):
            return {"tokenizer_class": name, **_arguments(name, document)}
    return {"tokenizer_class": GENERIC}


def _pipeline(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a tokenizer that a class builds itself: all but the entries."""
    model = {name: value for name, value in document["model"].items() if name not in ("vocab", "merges")}
    return {"model": model, **{name: document.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}}


def _arguments(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    if name == "BertTokenizer":
        normalizer = document["normalizer"]
        return {"do_lower_case": normalizer["lowercase"], "strip_accents": normalizer["strip_accents"], "tokenize_chinese_chars": True}
    if name == "T5Tokenizer":
        return {"extra_ids": sum(token["content"].startswith("<extra_id_") for token in document["added_tokens"])}
    return {}

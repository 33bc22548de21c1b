"""The settings of tokenizer_config.json that change the tokenizer of tokenizer.json, applied as transformers 5 applies them.

Tokens that the settings name and the vocabulary lacks get ids after the vocabulary's ids. Some tokenizer classes of transformers, such as
BertTokenizer, build their own pipeline from the settings, and ignore that of tokenizer.json, so a folder in which a setting contradicts
tokenizer.json is refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tfkit.recipe.schema.vocabularies import VOCABULARIES
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.tokenizer import token_text

GENERIC = "PreTrainedTokenizerFast"


class _Class(NamedTuple):
    """A tokenizer class of transformers that builds its own pipeline."""

    build: Callable[[Mapping[str, Any]], Backend]  # returns the pipeline, without trained entries, given the normalizer of tokenizer.json
    roles: Mapping[str, str]  # the class's special tokens, such as {"bos_token": "<s>"}


def _bert(normalizer: Mapping[str, Any]) -> Backend:
    return pipelines.wordpiece({}, pipelines.bert_normalizer(normalizer.get("lowercase", True), normalizer.get("strip_accents")))


_CLASSES = {
    "BertTokenizer": _Class(_bert, VOCABULARIES["wordpiece"][None].roles),
    "OpenAIGPTTokenizer": _Class(lambda _: pipelines.bpe_eow({}, []), VOCABULARIES["bpe_eow"][None].roles),
    "T5Tokenizer": _Class(lambda _: pipelines.unigram([(piece, 0.0) for piece in "abc"]), VOCABULARIES["unigram"]["t5"].roles),
    "LlamaTokenizer": _Class(lambda _: pipelines.llama_bpe({}, []), VOCABULARIES["bpe_byte_fallback"]["llama"].roles),
    "GemmaTokenizer": _Class(lambda _: pipelines.gemma_bpe({}, []), VOCABULARIES["bpe_byte_fallback"]["gemma"].roles),
}


def class_settings(tokenizer_json: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokenizer's class in transformers and its arguments, for tokenizer_config.json. `settings`: special tokens, by role."""
    document = json.loads(tokenizer_json)
    roles = {role: token for role, token in settings.items() if role.endswith("_token")}
    normalizer = document.get("normalizer") or {}
    for name, kind in _CLASSES.items():
        if roles == kind.roles and _pipeline(document) == _pipeline(json.loads(kind.build(normalizer).to_str())):
            return {"tokenizer_class": name, **_arguments(name, document)}
    return {"tokenizer_class": GENERIC}


def _pipeline(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that a class of `_CLASSES` builds itself: normalizer, pre-tokenizer, decoder, and the model without its entries."""
    model = {name: value for name, value in document["model"].items() if name not in ("vocab", "merges")}
    return {"model": model, **{name: document.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}}


def _arguments(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    if name == "BertTokenizer":
        normalizer = document["normalizer"]
        return {"do_lower_case": normalizer["lowercase"], "strip_accents": normalizer["strip_accents"], "tokenize_chinese_chars": True}
    if name == "T5Tokenizer":
        return {"extra_ids": sum(token["content"].startswith("<extra_id_") for token in document["added_tokens"])}
    return {}


_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # as transformers orders them
_LISTS = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BERT = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
_DEFAULTS: dict[str, dict[str, bool]] = {  # default arguments of the constructors of transformers' classes
    "BertTokenizer": {"do_lower_case": True, "tokenize_chinese_chars": True},
    "GPT2Tokenizer": {"add_prefix_space": False},
    "LlamaTokenizer": {"add_prefix_space": True},
}


class TokenError(ValueError):
    """Error for tokens that cannot be added as the settings describe them."""


def find_conflict(document: Any, settings: Mapping[str, Any]) -> str:
    """Describe the first setting that makes transformers build another pipeline than tokenizer.json has; empty if there is none."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if f"{name}Fast" == GENERIC or name == "TokenizersBackend" or not isinstance(document, dict):
        return ""
    for step in _steps([document.get("normalizer"), document.get("pre_tokenizer")]):
        values: dict[str, Any] = {}
        match step.get("type"):
            case "BertNormalizer":
                values = {key: step.get(field) for key, field in _BERT.items()}
            case "ByteLevel":
                values = {"add_prefix_space": step.get("add_prefix_space")}
            case "Metaspace" if name == "LlamaTokenizer":
                values = {"add_prefix_space": step.get("prepend_scheme") != "never"}
        for key, value in values.items():
            setting = settings.get(key, _DEFAULTS.get(name, {}).get(key))
            if setting is not None and setting != value:
                origin = "" if key in settings else " by default"
                return (
                    f"{key} is {setting!r}{origin}, but tokenizer.json was made with {value!r}: {name or 'its class'} in transformers "
                    "gives other ids than tokenizer.json; make the two agree, as the model was trained"
                )
    return ""


def add_configured_tokens(backend: Backend, settings: Mapping[str, Any], special: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    """Add to `backend` the tokens that the three files name and its vocabulary lacks; return whether any was added.

    The contents of the files: `settings` of tokenizer_config.json, `special` of special_tokens_map.json, `named` of added_tokens.json.
    Raises TokenError if a file has another id or other flags than `backend`, or if GemmaTokenizer would give an added token another id.
    """
    present = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    changed = False
    for key, token, token_id in named_tokens(settings, special, named):
        own_id, known = backend.token_to_id(token.content), present.get(token.content)
        differs = known is not None and any(getattr(token, flag) != getattr(known, flag) for flag in _FLAGS)
        if own_id is None and key in _LISTS and str(settings.get("tokenizer_class") or "Gemma").startswith("Gemma"):
            raise TokenError(
                f"{key} names {token.content!r}, which tokenizer.json lacks, and GemmaTokenizer adds other tokens first; add it there"
            )
        if own_id is None:
            backend.add_tokens([token])
            own_id, changed = backend.token_to_id(token.content), True
        elif key == "added_tokens_decoder" and differs:
            raise TokenError(
                f"{key} has {token!r}, but tokenizer.json has {known!r}: transformers would match it differently; make the two agree"
            )
        if token_id is not None and own_id != token_id:
            raise TokenError(f"{key} gives {token.content!r} the id {token_id}, but tokenizer.json gives it {own_id}; make the two agree")
    return changed


def named_tokens(
    settings: Mapping[str, Any], special: Mapping[str, Any], named: Mapping[str, Any]
) -> Iterator[tuple[str, AddedToken, int | None]]:
    """Yield each token that tokenizer_config.json (`settings`), special_tokens_map.json (`special`) or added_tokens.json (`named`) names:
    the key or the file that names it, the token, and its id (None: not stated).
    """
    decoder = settings.get("added_tokens_decoder") or {}
    if isinstance(decoder, dict):
        listed = ((int(number), token) for number, token in decoder.items() if number.isdecimal() and isinstance(token, dict))
        for number, token in sorted(listed, key=lambda entry: entry[0]):
            if isinstance(token.get("content"), str):
                yield "added_tokens_decoder", AddedToken(token["content"], **{flag: bool(token.get(flag)) for flag in _FLAGS}), number
    specials = {text for role in _ROLES if isinstance(text := token_text(settings.get(role)), str)}
    if not decoder:
        numbers = ((number, text) for text, number in named.items() if isinstance(number, int))
        for number, text in sorted(numbers):
            yield "added_tokens.json", AddedToken(text, special=text in specials, normalized=text not in specials), number
    overriding = {} if decoder else special  # without added_tokens_decoder, transformers prefers special_tokens_map.json to `settings`
    for key in (*_ROLES, *_LISTS):
        value = overriding.get(key) or settings.get(key)
        for entry in value if isinstance(value, list) else [value]:
            text = token_text(entry)
            if isinstance(text, str):
                flags = {flag: bool(entry.get(flag)) for flag in _FLAGS if isinstance(entry, dict) and flag in entry}
                yield key, AddedToken(text, **{"normalized": False, **flags, "special": True}), None


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict in a part of tokenizer.json: each step of a pipeline is a dict, also a step within a sequence."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _steps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _steps(inner)

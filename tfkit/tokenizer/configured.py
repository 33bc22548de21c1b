"""What tokenizer_config.json says beyond tokenizer.json, as transformers 5 heeds it.

Tokens that it names, and that the vocabulary lacks, are added behind it, by whatever class. A class with a pipeline of its own, such as
BertTokenizer, builds it by the settings, whatever tokenizer.json says: where the two disagree, the folder is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tfkit.tokenizer.hf_class import GENERIC

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # in the order of transformers
_MORE = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BERT = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
_DEFAULTS: dict[str, dict[str, bool]] = {  # of the constructors
    "BertTokenizer": {"do_lower_case": True, "tokenize_chinese_chars": True},
    "GPT2Tokenizer": {"add_prefix_space": False},
    "LlamaTokenizer": {"add_prefix_space": True},
}


class TokenError(ValueError):
    """Tokens of the settings that cannot be added as they are said to be."""


def find_conflict(document: Any, settings: Mapping[str, Any]) -> str:
    """What is wrong with settings by which transformers would build another pipeline than tokenizer.json; empty if nothing is."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if f"{name}Fast" == GENERIC or name == "TokenizersBackend" or not isinstance(document, dict):
        return ""
    for step in _steps([document.get("normalizer"), document.get("pre_tokenizer")]):
        found: dict[str, Any] = {}
        match step.get("type"):
            case "BertNormalizer":
                found = {key: step.get(field) for key, field in _BERT.items()}
            case "ByteLevel":
                found = {"add_prefix_space": step.get("add_prefix_space")}
            case "Metaspace" if name == "LlamaTokenizer":
                found = {"add_prefix_space": step.get("prepend_scheme") != "never"}
        for key, value in found.items():
            said = settings.get(key, _DEFAULTS.get(name, {}).get(key))
            if said is not None and said != value:
                origin = "" if key in settings else " by default"
                return (
                    f"{key} is {said!r}{origin}, and tokenizer.json was made with {value!r}: {name or 'its class'} in transformers gives "
                    "other ids than tokenizer.json; make the two agree, as the model was trained"
                )
    return ""


def with_configured_tokens(tokenizer_json: str, settings: Mapping[str, Any], special: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """A tokenizer.json with the tokens that the settings name besides, or itself if there are none; `special`: special_tokens_map.json,
    `named`: added_tokens.json.

    Raises TokenError where a token has another id than the one that it is said to have.
    """
    backend = Backend.from_str(tokenizer_json)
    present = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    changed = False
    for key, token, token_id in _tokens(settings, special, named):
        have = backend.token_to_id(token.content)
        if have is None and key in _MORE and str(settings.get("tokenizer_class") or "Gemma").startswith("Gemma"):
            raise TokenError(
                f"{key} names {token.content!r}, which tokenizer.json lacks, and GemmaTokenizer adds others before it; add it there"
            )
        if have is None:
            backend.add_tokens([token])
            have, changed = backend.token_to_id(token.content), True
        elif key == "added_tokens_decoder" and token.content in present and _differs(token, present[token.content]):
            raise TokenError(
                f"{key} says {token!r}, and tokenizer.json {present[token.content]!r}: in transformers it is matched otherwise than "
                "tokenizer.json says; make the two agree"
            )
        if token_id is not None and have != token_id:
            raise TokenError(
                f"{key} gives {token.content!r} the id {token_id}, and in tokenizer.json it has, or would get, {have}; make the two agree"
            )
    return backend.to_str(pretty=True) if changed else tokenizer_json


def _differs(one: AddedToken, other: AddedToken) -> bool:
    return any(getattr(one, flag) != getattr(other, flag) for flag in _FLAGS)


def _tokens(
    settings: Mapping[str, Any], special: Mapping[str, Any], named: Mapping[str, Any]
) -> Iterator[tuple[str, AddedToken, int | None]]:
    """The key that names a token, the token, and its id where one is said."""
    decoder = settings.get("added_tokens_decoder") or {}
    if isinstance(decoder, dict):
        listed = ((int(number), token) for number, token in decoder.items() if number.isdecimal() and isinstance(token, dict))
        for number, token in sorted(listed, key=lambda one: one[0]):
            if isinstance(token.get("content"), str):
                yield "added_tokens_decoder", AddedToken(token["content"], **{flag: bool(token.get(flag)) for flag in _FLAGS}), number
    specials = {text for role in _ROLES if isinstance(text := _content(settings.get(role)), str)}
    if not decoder:
        numbers = ((number, text) for text, number in named.items() if isinstance(number, int))
        for number, text in sorted(numbers):
            yield "added_tokens.json", AddedToken(text, special=text in specials, normalized=text not in specials), number
    overruling = {} if decoder else special  # where the tokens are not listed, transformers reads the older file last
    for key in (*_ROLES, *_MORE):
        value = overruling.get(key) or settings.get(key)
        for one in value if isinstance(value, list) else [value]:
            text = _content(one)
            if isinstance(text, str):
                flags = {flag: bool(one.get(flag)) for flag in _FLAGS if isinstance(one, dict) and flag in one}
                yield key, AddedToken(text, **{"normalized": False, **flags, "special": True}), None


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _steps(value: Any) -> Iterator[dict[str, Any]]:
    """Every step of a pipeline, those within sequences included."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _steps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _steps(inner)

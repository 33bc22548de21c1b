"""Conversion of BERT's vocabulary file, vocab.txt, into the tokenizer.json that transformers' BertTokenizer would write for it.

Each line is an entry, and its number is the id (google-research/bert, tokenization.py: load_vocab). Older folders have no tokenizer.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors

from tfkit.errors import ModelError
from tfkit.recipe.schema.vocabularies import VOCABULARIES
from tfkit.run.model_files import MIB, read_text
from tfkit.tokenizer import pipelines
from tfkit.tokenizer.configured import named_tokens
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors

NAME = "vocab.txt"
_LIMIT = 64 * MIB
_ROLES = VOCABULARIES["wordpiece"][None].roles
_CLASSES = ("BertTokenizer", "DistilBertTokenizer")
_MODEL_TYPES = ("bert", "distilbert")
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def is_bert_vocab(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a vocab.txt is BERT's: by the class in tokenizer_config.json, else by the model_type in config.json (default: bert)."""
    named = settings.get("tokenizer_class")
    return str(named).removesuffix("Fast") in _CLASSES if named else config.get("model_type", "bert") in _MODEL_TYPES


def with_bert_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with BERT's class and special tokens for those that they do not name."""
    defaults = {role: token for role, token in _ROLES.items() if settings.get(role) is None}
    return {**settings, **defaults, "tokenizer_class": settings.get("tokenizer_class") or _CLASSES[0]}


def tokenizer_json(path: Path, settings: Mapping[str, Any], special: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """Return the tokenizer.json for a vocab.txt; `settings` has all roles, `special` and `named` as in configured.py. Raise ModelError."""
    vocab = {line.rstrip(_SPACE): number for number, line in enumerate(read_text(path, _LIMIT).removesuffix("\n").split("\n"))}
    tokens: dict[str, AddedToken] = {}
    for _, token, _ in named_tokens(settings, special, named):
        tokens.setdefault(token.content, token)
    roles = {role: token if isinstance(token := settings[role], str) else token["content"] for role in _ROLES}
    if lacking := [token for token in roles.values() if token not in vocab]:
        raise ModelError(f"{path}: has no line {', '.join(lacking)}, so it is not this model's vocabulary; copy the model's own file again")
    with tokenizer_errors(str(path)):
        lowercase = bool(settings.get("do_lower_case", True))
        normalizer = pipelines.bert_normalizer(lowercase, settings.get("strip_accents"), bool(settings.get("tokenize_chinese_chars", True)))
        backend = pipelines.wordpiece(vocab, normalizer, roles["unk_token"])
        single, pair = pipelines.template_parts(roles, False) or ("", "")
        ids = [(token, vocab[token]) for token in (roles["cls_token"], roles["sep_token"])]
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
        backend.add_tokens([token for content, token in tokens.items() if content in vocab])
        return backend.to_str(pretty=True)

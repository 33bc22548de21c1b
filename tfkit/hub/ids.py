"""Check that every id in a model folder's files is in the vocabulary: an id outside it has no embedding."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.hub.config_json import LIMIT, read_special_ids, stated_ends
from tfkit.run.model_files import read_object
from tfkit.run.verified import find_named
from tfkit.tokenizer import Tokenizer, load_tokenizer

_NAMES = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)
_FILES = ("config.json", "generation_config.json")
# These classes write the ids of the released vocabulary into every file whose author set none.
_CLASS_DEFAULTS = {
    "gpt2": {"bos_token_id": 50256, "eos_token_id": 50256},
    "modernbert": {**dict.fromkeys(("bos_token_id", "cls_token_id"), 50281), **dict.fromkeys(("eos_token_id", "sep_token_id"), 50282)},
}


def read_ids(hf: Mapping[str, Any], folder: Path, vocab_size: int) -> dict[str, Any]:
    """Return the folder's bos, eos, pad and start ids, as `read_special_ids` does.

    Raise ModelError if any token id in config.json or generation_config.json is not in the vocabulary. generation_config.json is
    optional, and counts as empty if it cannot be read.
    """
    defaults = {key: value for key, value in _CLASS_DEFAULTS.get(str(hf.get("model_type")), {}).items() if value >= vocab_size}
    for name in _FILES:
        try:
            path = find_named(folder, name)
            stated = {} if path is None else read_object(path, LIMIT)
        except (ModelError, OSError):
            continue
        for key, number in _ids(stated):
            if not 0 <= number < vocab_size and defaults.get(key) != number:
                raise ModelError(
                    f"{path}: {key} is {number}, but the vocabulary has the ids 0 to {vocab_size - 1}; "
                    "correct it, or remove the key if the model has no such token"
                )
    stated = {key: value for key, value in hf.items() if key not in defaults or defaults[key] != value}
    return {key: value for key, value in read_special_ids(stated, folder).items() if key not in defaults or defaults[key] != value}


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """Return a model folder's tokenizer, if it has one. Raise ModelError if it has more entries than the model has embeddings."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is not None and tokenizer.size > vocab_size:
        raise ModelError(
            f"{folder / 'tokenizer.json'}: {tokenizer.size:,} entries, but vocab_size in config.json is {vocab_size:,}; put the model's "
            "own tokenizer there, or remove the entries that were added without the model"
        )
    return tokenizer


def with_model_ids(tokenizer: Tokenizer | None, special_ids: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer with the ids of `read_ids` that start a decoder, begin its texts, and end a text."""
    if tokenizer is None:
        return None
    start = special_ids.get("decoder_start_token_id", tokenizer.decoder_start_id)
    first = special_ids.get("forced_bos_token_id")
    return replace(tokenizer, decoder_start_id=start, forced_first_id=first, stated_end_ids=stated_ends(special_ids))


def _ids(stated: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the key and the number of each id in a file's fields, also from lists of lists."""
    for name in _NAMES:
        pending = [stated.get(name)]
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif type(value) is int:
                yield name, value

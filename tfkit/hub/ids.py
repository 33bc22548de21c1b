"""The token ids in the configuration files of a model folder. An id outside the vocabulary has no embedding, so it is ignored if it
is a default of transformers' class, and otherwise an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.hub.config_json import read_generation
from tfkit.tokenizer import Tokenizer, load_tokenizer

SPECIAL_IDS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
_EOS = "eos_token_id"
_NAMES = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)
# By model_type: ids of the released vocabulary, which transformers' class writes into config.json if the author set none. Such an id is
# ignored if the model's vocabulary is too small for it.
_CLASS_DEFAULTS = {
    "gpt2": {"bos_token_id": 50256, "eos_token_id": 50256},
    "modernbert": {**dict.fromkeys(("bos_token_id", "cls_token_id"), 50281), **dict.fromkeys(("eos_token_id", "sep_token_id"), 50282)},
    **{name: {"eos_token_id": 50279} for name in ("olmo2", "olmo3", "olmoe")},
    "phi3": {"eos_token_id": 32000},
    "smollm3": {"bos_token_id": 128000, "eos_token_id": 128001},
    "marian": {"decoder_start_token_id": 58100},
}


def read_ids(hf: Mapping[str, Any], folder: Path, vocab_size: int) -> dict[str, Any]:
    """Return the ids under the keys SPECIAL_IDS in config.json, else in generation_config.json. The eos ids are those of both files.

    `hf`: the content of config.json. Raise ModelError for an id outside the vocabulary, and for a value in config.json that is not an id.
    """
    generation = read_generation(hf, folder)
    defaults = {key: value for key, value in _CLASS_DEFAULTS.get(str(hf.get("model_type")), {}).items() if value >= vocab_size}
    for name, stated in (("config.json", hf), ("generation_config.json", generation)):
        for key, number in _ids(stated):
            if not 0 <= number < vocab_size and defaults.get(key) != number:
                raise ModelError(
                    f"{folder / name}: {key} is {number}, but the vocabulary has the ids 0 to {vocab_size - 1}; "
                    "correct it, or remove the key if the model has no such token"
                )
    ids = {key: hf[key] for key in SPECIAL_IDS if hf.get(key) not in (None, defaults.get(key))}
    for key, value in ids.items():
        if not _are_ids(key, value):
            raise ModelError(f"{folder / 'config.json'}: {key} is {value!r:.80}, which is not a token id")
    return {key: value for key, value in merge_special_ids(ids, generation).items() if value != defaults.get(key)}


def merge_special_ids(ids: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ids`, with the special ids that only `generation` (from generation_config.json) has, and with the eos ids of both."""
    generation_ids = {name: generation[name] for name in SPECIAL_IDS if _are_ids(name, generation.get(name))}
    ends = [end for source in (ids, generation_ids) for end in stated_ends(source)]
    merged = {_EOS: ends[0] if len({*ends}) == 1 else list(dict.fromkeys(ends))} if ends else {}
    return generation_ids | dict(ids) | merged


def stated_ends(special_ids: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the eos ids in the result of `read_ids`, in which they are one id or a list."""
    ends = special_ids.get(_EOS, [])
    return tuple(ends) if isinstance(ends, list) else (ends,)


def read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer | None:
    """Return a model folder's tokenizer; None if there is none. Raise ModelError if it has more entries than the model's vocabulary."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is not None and tokenizer.size > vocab_size:
        raise ModelError(
            f"{folder / 'tokenizer.json'}: {tokenizer.size:,} entries, but vocab_size in config.json is {vocab_size:,}; put the model's "
            "own tokenizer there, or remove the entries that were added without the model"
        )
    return tokenizer


def with_model_ids(tokenizer: Tokenizer | None, special_ids: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer with ids that `read_ids` returns: the decoder's start id, the forced first id of a text, and the eos ids."""
    if tokenizer is None:
        return None
    start = special_ids.get("decoder_start_token_id", tokenizer.decoder_start_id)
    first = special_ids.get("forced_bos_token_id")
    return replace(tokenizer, decoder_start_id=start, forced_first_id=first, stated_end_ids=stated_ends(special_ids))


def _ids(stated: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the key and the value of each token id in a file's content; the ids may be in nested lists."""
    for name in _NAMES:
        pending = [stated.get(name)]
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif type(value) is int:
                yield name, value


def _are_ids(name: str, value: Any) -> bool:
    """Return whether the value of the key `name` is an id or, for the eos ids, a list of ids."""
    return all(type(one) is int for one in (value if name == _EOS and isinstance(value, list) else [value]))

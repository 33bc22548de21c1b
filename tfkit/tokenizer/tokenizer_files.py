"""Loading and saving of tokenizers in Hugging Face folders. A loaded tokenizer.json is saved unchanged, but for tokens that were added."""

import json
import math
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from tfkit.errors import ModelError
from tfkit.recipe.schema.vocabularies import VOCABULARY_FILES
from tfkit.run.model_files import MIB, parse_json, read_object, read_text
from tfkit.run.verified import find_named
from tfkit.tokenizer.configured import TokenError, add_configured_tokens, class_settings, find_conflict
from tfkit.tokenizer.tokenizer import Tokenizer, token_text
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors

TOKENIZER, CONFIG, SPECIAL, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
TOKENIZER_FILES = (TOKENIZER, CONFIG, SPECIAL, TEMPLATE, *VOCABULARY_FILES)
ADDED = "added_tokens.json"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_TOKENIZER_LIMIT, _SETTINGS_LIMIT, _TEMPLATE_LIMIT = 64 * MIB, 16 * MIB, MIB  # the largest known tokenizer.json has 33 MiB
_MAX_EXPANSION = 1000  # the largest number of characters that may replace one; real tokenizers have 1 to 3
UNLIMITED = 10**30  # a model_max_length that transformers takes for no limit; its own such value is int(1e30)

# Settings dropped when loading: auto_map names remote code; the others are saved anew, are in other files, or describe the old folder.
_NOT_KEPT = (
    *("auto_map", "chat_template", "tokenizer_class", "tokenizer_file", "name_or_path", "is_local", "local_files_only", "backend"),
    "added_tokens_decoder",
)


def load_tokenizer(folder: Path | str) -> Tokenizer | None:
    """Load the tokenizer of a folder; return None if it has neither a tokenizer.json nor the vocabulary files of a class known to tfkit.

    The post-processor in tokenizer.json decides whether a text begins with bos, not `add_bos_token` in tokenizer_config.json. Raises
    ModelError if a file is damaged, or if transformers would build another tokenizer than tokenizer.json describes (`find_conflict`).
    """
    folder = Path(folder)
    path = find_named(folder, TOKENIZER)
    special, named = _read_object(folder, SPECIAL), _read_object(folder, ADDED)
    settings = _read_settings(folder, special)
    if path is None:
        from tfkit.tokenizer.vocabulary_files import read_vocabulary  # few folders need this import

        found = read_vocabulary(folder, settings, _read_object(folder, "config.json"), special, named)
        if found is None:
            return None
        text, settings, path = found[0], dict(found[1]), folder
    else:
        text = read_text(path, _TOKENIZER_LIMIT)
    template = _read_template(folder, settings)
    document = parse_json(text, path)
    steps = [document.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")] if isinstance(document, dict) else []
    if any(_expansion(step) > _MAX_EXPANSION for step in steps):  # if memory ran out, Rust would abort the process
        raise ModelError(f"{path}: makes over {_MAX_EXPANSION:,} characters of one, which could fill the memory; it is refused as unsafe")
    with tokenizer_errors(str(path)):
        if conflict := find_conflict(document, settings):
            raise ModelError(f"{folder / CONFIG}: {conflict}")
        backend = Backend.from_str(text)
        try:
            if add_configured_tokens(backend, settings, special, named):
                text = backend.to_str(pretty=True)
                backend = Backend.from_str(text)
        except TokenError as error:
            raise ModelError(f"{folder}: {error}") from None
        for key in _NOT_KEPT:
            settings.pop(key, None)
        return Tokenizer.from_backend(backend, text, settings, template)


def save_tokenizer(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Write into an existing folder the files that `transformers.AutoTokenizer` reads.

    If a class of `transformers` with its own pipeline builds exactly this tokenizer, tokenizer_config.json names it (configured.py).
    """
    folder = Path(folder)
    special = {role: token_text(tokenizer.settings[role]) for role in ROLES if tokenizer.settings.get(role) is not None}
    of_class = class_settings(tokenizer.tokenizer_json, special)
    settings: dict[str, Any] = {key: value for key, value in tokenizer.settings.items() if key not in (*ROLES, *of_class)}
    settings.setdefault("model_max_length", UNLIMITED)
    settings["clean_up_tokenization_spaces"] = False
    if tokenizer.settings.get("pad_token", "") is None:
        settings["pad_token"] = None  # without the null, transformers adds the token that the padding of tokenizer.json names
    _write(folder / TOKENIZER, tokenizer.tokenizer_json)
    _write_json(folder / CONFIG, settings | of_class | special)  # special tokens come last, so that the order of keys is always the same
    _write_json(folder / SPECIAL, special)
    if tokenizer.chat_template is not None:
        _write(folder / TEMPLATE, tokenizer.chat_template)


def _expansion(step: Any) -> int:
    """Return an upper bound of the number of characters into which a step of a pipeline, or a list of steps, can expand one character."""
    if isinstance(step, list):
        return math.prod(map(_expansion, step))
    if not isinstance(step, dict):
        return 1
    text = step.get("content") if step.get("type") == "Replace" else step.get("prepend")
    inner = (value for value in step.values() if isinstance(value, list | dict))
    return math.prod(map(_expansion, inner)) * (len(text) + 1 if isinstance(text, str) and len(text) > 1 else 1)


def _read_settings(folder: Path, special: dict[str, Any]) -> dict[str, Any]:
    """Read tokenizer_config.json, and add the special tokens that only special_tokens_map.json (`special`) names."""
    settings = _read_object(folder, CONFIG)
    for role in ROLES:
        if settings.get(role) is None and special.get(role) is not None:
            settings[role] = special[role]
        if not isinstance(token_text(settings.get(role)), str | None):
            raise ModelError(f"{folder}: the {role} is {settings[role]!r}; write it as a string in {CONFIG}")
    return settings


def _read_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """Read chat_template.jinja, else the template in tokenizer_config.json (of several, the one named default); None if there is none."""
    path = find_named(folder, TEMPLATE)
    if path is not None:
        return read_text(path, _TEMPLATE_LIMIT)
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}.get("default")
    return template if isinstance(template, str) else None


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    path = find_named(folder, name)
    return {} if path is None else read_object(path, _SETTINGS_LIMIT)


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())  # bytes, so that no platform changes line ends


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

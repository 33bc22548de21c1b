"""A tokenizer in a Hugging Face folder: tokenizer.json is kept to the byte, the files around it say which tokens are special."""

import json
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError
from tfkit.tokenizer.tokenizer import Tokenizer, token_text

TOKENIZER, CONFIG, SPECIAL, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
UNLIMITED = 10**30  # transformers' own value for "no longest text"

# auto_map names remote code; the others are told anew, or stand in a file of their own.
_NOT_KEPT = ("auto_map", "chat_template", "tokenizer_class", "tokenizer_file", "name_or_path", "is_local", "local_files_only", "backend")


def load_tokenizer(folder: Path | str) -> Tokenizer | None:
    """The tokenizer of a folder, None if it has no tokenizer.json. Raises ModelError on damage, naming the file.

    The template in tokenizer.json alone decides whether a text begins with bos: `add_bos_token` of the config is not read.
    """
    folder = Path(folder)
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    settings = _read_settings(folder)
    template = _read_template(folder, settings)
    for key in _NOT_KEPT:
        settings.pop(key, None)
    try:
        return Tokenizer.from_json(_read(path), settings, template)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises Exception itself
        raise ModelError(f"{path}: not a usable tokenizer ({error}); copy the folder again or take the tokenizer of its origin") from error


def save_tokenizer(tokenizer: Tokenizer, folder: Path | str, context_length: int | None = None) -> None:
    """Write the files that `transformers.AutoTokenizer` reads into an existing folder; `context_length` becomes model_max_length.

    The class is PreTrainedTokenizerFast, which does what tokenizer.json says and nothing else.
    """
    folder = Path(folder)
    settings: dict[str, Any] = {key: value for key, value in tokenizer.settings.items() if key not in ROLES}
    special = {role: token_text(tokenizer.settings[role]) for role in ROLES if tokenizer.settings.get(role) is not None}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["model_max_length"] = context_length or settings.get("model_max_length", UNLIMITED)
    settings["clean_up_tokenization_spaces"] = False
    _write(folder / TOKENIZER, tokenizer.tokenizer_json)
    _write_json(folder / CONFIG, settings | special)
    _write_json(folder / SPECIAL, special)
    if tokenizer.chat_template is not None:
        _write(folder / TEMPLATE, tokenizer.chat_template)


def _read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the special tokens that only special_tokens_map.json names."""
    settings = _read_object(folder / CONFIG)
    special = _read_object(folder / SPECIAL)
    for role in ROLES:
        if settings.get(role) is None and special.get(role) is not None:
            settings[role] = special[role]
        if not isinstance(token_text(settings.get(role)), str | None):
            raise ModelError(f"{folder}: the {role} is {settings[role]!r}; write it as a string in {CONFIG}")
    return settings


def _read_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """chat_template.jinja, else the config's template; of several named ones the default."""
    if (folder / TEMPLATE).is_file():
        return _read(folder / TEMPLATE)
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}.get("default")
    return template if isinstance(template, str) else None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}); copy the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}; copy the file again")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: byte {error.start} is not UTF-8; copy the file again") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())  # bytes, so that no platform changes line ends


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

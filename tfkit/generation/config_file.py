"""Read generation_config.json: generation settings, and the checkpoint's constraints on every text."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit.errors import ModelError
from tfkit.generation.constraints import Constraints
from tfkit.recipe.schema.sections import GenerationSection

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_RENAMED = {"no_repeat_ngram_size": "no_repeat_ngram", "stop_strings": "stop"}
_SETTINGS = (
    "max_new_tokens",
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "length_penalty",
    "early_stopping",
    "stop_strings",
)
_EARLY_STOPPING = {True: "full", False: "likely", "never": "never"}
# Keys that change a text in transformers and are not supported here, with their neutral values.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_decoder_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "renormalize_logits": (False,),
    "sequence_bias": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
_UNSUPPORTED_SAMPLING: dict[str, tuple[Any, ...]] = {"epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "typical_p": (1,)}


@dataclass(frozen=True)
class CheckpointSettings:
    """The merged settings, the fields that the checkpoint changes, its constraints on every text, and its unsupported keys."""

    settings: GenerationSection
    taken: dict[str, Any]
    constraints: Constraints
    unsupported: list[str]


def checkpoint_settings(
    content: Mapping[str, Any], settings: GenerationSection, given: Collection[str] | None, *, encodes: bool, vocab_size: int, folder: Path
) -> CheckpointSettings:
    """Merge `content`, that of generation_config.json, into the settings.

    `given`: the fields that the command line sets, which take precedence; None if a recipe sets all fields, so that only constraints are
    read from the file. `encodes`: whether the model is an encoder-decoder. Raises ModelError, with the key, for an invalid value.
    """
    values = {name: value for name, value in content.items() if value is not None}
    path = folder / "generation_config.json"
    taken = {} if given is None else _taken(values, given, encodes)
    try:
        merged = GenerationSection.model_validate(settings.model_dump() | taken, strict=True)
    except ValidationError as error:
        what = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{path}: {what}; correct the file, or remove the key") from None
    lengths = {"min_length": _number(values, "min_length", path), "min_new_tokens": _number(values, "min_new_tokens", path)}
    if "max_length" in values and "max_new_tokens" not in values and "max_new_tokens" in taken:
        lengths["max_length"] = _number(values, "max_length", path)
    constraints = Constraints(
        bad_words=tuple(_ids({"bad_words_ids": word}, "bad_words_ids", path, vocab_size) for word in _list(values, "bad_words_ids", path)),
        suppressed=_ids(values, "suppress_tokens", path, vocab_size),
        suppressed_first=_ids(values, "begin_suppress_tokens", path, vocab_size),
        forced_first=next(iter(_ids(values, "forced_bos_token_id", path, vocab_size)), None),
        forced_last=_ids(values, "forced_eos_token_id", path, vocab_size),
        **({} if given is None else lengths),
    )
    samples = values.get("do_sample") is True
    known = _UNSUPPORTED | (_UNSUPPORTED_SAMPLING if samples else {})
    unsupported = [name for name, neutral in known.items() if name in values and values[name] not in neutral]
    if samples and merged.num_beams > 1 and "num_beams" in taken:
        unsupported.append("do_sample with num_beams")
    changed = {name: value for name, value in taken.items() if value != getattr(settings, name)}
    return CheckpointSettings(merged, changed, constraints, sorted(unsupported))


def _taken(values: Mapping[str, Any], given: Collection[str], encodes: bool) -> dict[str, Any]:
    """Return the fields of GenerationSection that the file sets and the command line does not."""
    taken = {_RENAMED.get(name, name): values[name] for name in _SETTINGS if name in values}
    if isinstance(taken.get("early_stopping"), bool | str):
        taken["early_stopping"] = _EARLY_STOPPING.get(taken["early_stopping"], taken["early_stopping"])
    if "max_length" in values and "max_new_tokens" not in values:
        taken["max_new_tokens"] = values["max_length"]
        if encodes and type(values["max_length"]) is int:
            taken["max_new_tokens"] = max(1, values["max_length"] - 1)  # without the decoder's start token
    if values.get("do_sample") is True:
        taken |= {name: values[name] for name in _SAMPLING if name in values}
    elif values.get("do_sample") is False and not set(_SAMPLING) & set(given):
        taken["temperature"] = 0.0
    for name in ("no_repeat_ngram", "top_k"):
        if taken.get(name) == 0:
            taken[name] = None
    if set(_SAMPLING) & set(given):
        taken.pop("num_beams", None)  # beam search does not sample
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"):
        if type(taken.get(name)) is int:
            taken[name] = float(taken[name])
    return {name: value for name, value in taken.items() if name not in given}


def _list(values: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = values.get(name, [])
    if not isinstance(value, list):
        raise ModelError(f"{path}: {name} is {repr(value)[:80]}, not a list; correct the file, or remove the key")
    return value


def _ids(values: Mapping[str, Any], name: str, path: Path, vocab_size: int) -> tuple[int, ...]:
    """Return the token ids of a key, which may be a list or a single id."""
    value = values.get(name, [])
    tokens = value if isinstance(value, list) else [value]
    for token in tokens:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ModelError(
                f"{path}: {name} has {repr(token)[:80]}, which is not a token of the {vocab_size:,}; correct the file, or remove the key"
            )
    if name == "bad_words_ids" and not tokens:
        raise ModelError(f"{path}: {name} has an empty list; correct the file, or remove the key")
    return tuple(tokens)


def _number(values: Mapping[str, Any], name: str, path: Path) -> int:
    value = values.get(name, 0)
    if type(value) is not int or value < 0:
        raise ModelError(f"{path}: {name} is {repr(value)[:80]}, not a number of tokens; correct the file, or remove the key")
    return value

"""The content of generation_config.json, as it is read and written: settings of generation, and the checkpoint's constraints on texts.

The keys have transformers' meaning: without `do_sample` the likeliest token is taken, and with it a token is drawn from the 50
likeliest, unless `top_k` states another number (0: from all).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit.errors import ModelError
from tfkit.generation.next_token import Constraints
from tfkit.recipe.schema.output_sections import GenerationSection

SHOWN = ("temperature", "top_k", "top_p", "min_p", "num_beams", "max_new_tokens")  # the fields that a description of the settings shows
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
_DEFAULT_TOP_K = 50  # the default of transformers
_RENAMED = {"no_repeat_ngram_size": "no_repeat_ngram", "stop_strings": "stop"}
_SETTINGS = "max_new_tokens", "num_beams", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "early_stopping", "stop_strings"
_EARLY_STOPPING = {True: "full", False: "likely", "never": "never"}
# Unsupported keys that change the generated text in transformers, each with the values, besides null, for which it has no effect.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("constraints", "dola_layers", "exponential_decay_length_penalty", "force_words_ids", "forced_decoder_ids"), ()),
    **dict.fromkeys(("max_time", "sequence_bias", "watermarking_config"), ()),
    **dict.fromkeys(("diversity_penalty", "encoder_no_repeat_ngram_size", "penalty_alpha"), (0,)),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("renormalize_logits", "token_healing"), (False,)),
}
_UNSUPPORTED_SAMPLING: dict[str, tuple[Any, ...]] = {"epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "typical_p": (1,)}


@dataclass(frozen=True)
class CheckpointSettings:
    """The settings of generation after merging those of the user, the run and the checkpoint's generation_config.json."""

    settings: GenerationSection
    taken: dict[str, Any]  # the fields that generation_config.json has changed, with their new values
    constraints: Constraints
    unsupported: list[str]  # keys of generation_config.json that are ignored
    unread: list[str]  # fields that the user has set and beam search ignores


def checkpoint_settings(
    content: Mapping[str, Any], settings: GenerationSection, given: Collection[str], *, encodes: bool, vocab_size: int, folder: Path
) -> CheckpointSettings:
    """Merge `content`, the content of generation_config.json, into the settings.

    `settings`: those of the run, with the user's changes. `given`: the names of the fields that the user has set, which take precedence.
    `encodes`: whether the model is an encoder-decoder.

    Raises ModelError, which names the key, for an invalid value.
    """
    values = {name: value for name, value in content.items() if value is not None}
    path = folder / "generation_config.json"
    taken = _taken(values, given, encodes)
    try:
        merged = GenerationSection.model_validate(settings.model_dump() | taken, strict=True)
    except ValidationError as error:
        what = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{path}: {what}; correct the file, or remove the key") from None
    lengths = {"min_length": _number(values, "min_length", path), "min_new_tokens": _number(values, "min_new_tokens", path)}
    if "max_length" in values and "max_new_tokens" not in values and "max_new_tokens" in taken:
        lengths["max_length"] = _number(values, "max_length", path)
    bad_words = values.get("bad_words_ids", [])
    if not isinstance(bad_words, list):
        raise ModelError(f"{path}: bad_words_ids is {repr(bad_words)[:80]}, not a list; correct the file, or remove the key")
    constraints = Constraints(
        bad_words=tuple(_ids({"bad_words_ids": word}, "bad_words_ids", path, vocab_size) for word in bad_words),
        suppressed=_ids(values, "suppress_tokens", path, vocab_size),
        suppressed_first=_ids(values, "begin_suppress_tokens", path, vocab_size),
        forced_first=next(iter(_ids(values, "forced_bos_token_id", path, vocab_size)), None),
        forced_last=_ids(values, "forced_eos_token_id", path, vocab_size),
        **lengths,
    )
    samples = values.get("do_sample") is True
    known = _UNSUPPORTED | (_UNSUPPORTED_SAMPLING if samples else {})
    unsupported = [name for name, neutral in known.items() if name in values and values[name] not in neutral]
    if samples and merged.num_beams > 1 and "num_beams" in taken:
        unsupported.append("do_sample with num_beams")
    changed = {name: value for name, value in taken.items() if value != getattr(settings, name)}
    unread = [name for name in _SAMPLING if name in given and merged.num_beams > 1 and merged.temperature > 0]
    return CheckpointSettings(merged, changed, constraints, sorted(unsupported), unread)


def stated_settings(settings: GenerationSection, base: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the content of a trained model's generation_config.json, without token ids and the recipe's stop strings.

    For a model trained from random weights, it has the recipe's sampling settings and the other settings that differ from their defaults.
    For a fine-tuned model, it is `base`, the content of the base model's file, changed by the recipe's settings that differ from their
    defaults.
    """
    values = settings.model_dump()
    defaults = GenerationSection().model_dump()
    changed = {name for name in values if values[name] != defaults[name]}
    stated: dict[str, Any] = dict(base or {})
    if base is None or changed & {*_SAMPLING}:
        samples = settings.temperature > 0
        stated = {name: value for name, value in stated.items() if name not in _SAMPLING} | {"do_sample": samples}
        stated |= {"temperature": settings.temperature, "top_k": settings.top_k or 0} if samples else {}
        stated |= {name: values[name] for name in changed & {"top_p", "min_p"} if samples}
    # stop_strings is left out, since transformers refuses to generate with it unless a tokenizer is passed.
    names = {_RENAMED.get(name, name): name for name in _SETTINGS if name != "stop_strings"}
    stated |= {name: values[field] for field, name in names.items() if field in changed}
    if "early_stopping" in changed:
        stated["early_stopping"] = next(theirs for theirs, ours in _EARLY_STOPPING.items() if ours == settings.early_stopping)
    if stated.get("num_beams", 1) > 1:
        stated["do_sample"] = False
    return stated


def describe(settings: GenerationSection) -> str:
    """Describe how tokens are chosen, as in `sampling at temperature 0.7 from the 50 likeliest tokens`."""
    if settings.num_beams > 1:
        return f"beam search with {settings.num_beams} beams"
    if settings.temperature == 0:
        return "greedy, the likeliest token each time"
    likeliest = f" from the {settings.top_k} likeliest tokens" if settings.top_k else ""
    fractions = [f"{name} {value:g}" for name, value in (("top_p", settings.top_p % 1), ("min_p", settings.min_p)) if value]
    return ", ".join([f"sampling at temperature {settings.temperature:g}{likeliest}", *fractions])


def _taken(values: Mapping[str, Any], given: Collection[str], encodes: bool) -> dict[str, Any]:
    """Return the fields that generation_config.json (`values`) or transformers' defaults for it set, except those of the user (`given`)."""
    taken = {_RENAMED.get(name, name): values[name] for name in _SETTINGS if name in values}
    if isinstance(taken.get("early_stopping"), bool | str):
        taken["early_stopping"] = _EARLY_STOPPING.get(taken["early_stopping"], taken["early_stopping"])
    if isinstance(taken.get("stop"), str):
        taken["stop"] = [taken["stop"]]
    if "max_length" in values and "max_new_tokens" not in values:
        taken["max_new_tokens"] = values["max_length"]
        if encodes and type(values["max_length"]) is int:
            taken["max_new_tokens"] = max(1, values["max_length"] - 1)  # max_length counts the decoder's start token
    if values.get("do_sample") is True:
        taken |= {"top_k": _DEFAULT_TOP_K} | {name: values[name] for name in _SAMPLING if name in values}
    elif not set(_SAMPLING) & set(given):
        taken["temperature"] = 0.0
    for name in ("no_repeat_ngram", "top_k"):
        if taken.get(name) == 0:
            taken[name] = None
    if set(_SAMPLING) & set(given):
        taken.pop("num_beams", None)  # beam search would ignore the user's settings of sampling
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"):
        if type(taken.get(name)) is int:
            taken[name] = float(taken[name])
    return {name: value for name, value in taken.items() if name not in given}


def _ids(values: Mapping[str, Any], name: str, path: Path, vocab_size: int) -> tuple[int, ...]:
    """Return the token ids of a key, whose value may be a list or a single id. Raises ModelError for anything else."""
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

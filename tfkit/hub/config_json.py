"""Conversion between ModelConfig and the files that describe a model, config.json and tfkit.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfkit.errors import ModelError, UsageError
from tfkit.families import FAMILIES, MODEL_TYPES
from tfkit.families.config_fields import UnsupportedError, normalize_keys
from tfkit.families.hub_models import nearest_type
from tfkit.families.rules import Family
from tfkit.model.config import (
    ClassesHeadConfig,
    HeadConfig,
    LanguageModelHeadConfig,
    MaskedLanguageModelHeadConfig,
    ModelConfig,
    TagsHeadConfig,
)
from tfkit.recipe.presets import merge
from tfkit.run.model_files import MIB, read_object
from tfkit.run.tfkit_json import NAME, read_tfkit_json
from tfkit.run.verified import find_named

OWN_TYPE = "tfkit"  # model_type of a model that no Hugging Face class can express, so that other programs refuse to load it
_GENERATION_KEYS = (  # transformers reads these settings from config.json if there is no generation_config.json
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"),
    *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "forced_bos_token_id", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens", "forced_eos_token_id"),
)
TRAINING_ONLY_FIELDS = {"init", "dropout", "routing"}  # fields of ModelConfig that affect only training; they are saved in tfkit.json
_MAX_PROBLEMS = 20  # the maximum number of problems in an error message
LIMIT = 4 * MIB  # the maximum size of config.json and of generation_config.json in bytes, a thousand times the usual size of the former


def read_config(hf: Mapping[str, Any], folder: Path) -> tuple[Family | None, ModelConfig]:
    """Return the family and the ModelConfig of the model that config.json and tfkit.json describe; the family is None for the model_type
    "tfkit". `hf`: the content of config.json. Raise ModelError for a model_type that is not implemented, and for invalid or missing fields.
    """
    path = folder / "config.json"
    kind = hf.get("model_type")
    if not isinstance(kind, str) or (kind != OWN_TYPE and kind not in MODEL_TYPES):
        near = nearest_type(kind) if isinstance(kind, str) else None
        raise ModelError(
            f"{path}: model_type {kind!r:.80} is not implemented{f'; the nearest implemented type is {near}' if near else ''}. "
            f"Use a model of one of these types: {', '.join(MODEL_TYPES)}"
        )
    family = MODEL_TYPES.get(kind)
    try:
        config = _validated(family.from_hf(normalize_keys(hf, family)) if family else hf["config"], path)
    except KeyError as missing:
        raise ModelError(f"{path}: the field {missing} is missing") from None
    except UnsupportedError as error:
        raise ModelError(f"{path}: {error}") from None
    if family and not family.classes_of(config):
        raise ModelError(
            f"{path}: {config.encoder_layers} encoder and {config.decoder_layers} decoder layers do not make a {kind}: a stack is missing"
        )
    document = read_tfkit_json(folder)
    if family:
        ours, training_only = folder / NAME, document.fields.get("model", {})
        if not isinstance(training_only, dict) or not training_only.keys() <= TRAINING_ONLY_FIELDS:
            raise ModelError(f"{ours}: model must hold {' and '.join(sorted(TRAINING_ONLY_FIELDS))}, and nothing that is in config.json")
        config = _validated(config.model_dump() | training_only, ours)
    return family, config


def read_generation(hf: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content of generation_config.json; without that file, the generation settings of config.json (`hf`), where older versions
    of transformers saved them. The file is optional, so it counts as empty if it cannot be read.
    """
    try:
        path = find_named(folder, "generation_config.json")
        return {name: hf[name] for name in _GENERATION_KEYS if name in hf} if path is None else read_object(path, LIMIT)
    except (ModelError, OSError):
        return {}


def family_of(config: ModelConfig, prefer: str | None = None) -> Family | None:
    """Return a family whose Hugging Face config expresses all that the model computes, if possible `prefer`; None if there is none."""
    families = sorted(FAMILIES.values(), key=lambda family: family.name != prefer)
    return next((family for family in families if _expresses(family, config)), None)


def _expresses(family: Family, config: ModelConfig) -> bool:
    if family.model_type is None or family.architecture(config) is None:
        return False
    try:
        restored = ModelConfig.model_validate(family.from_hf(normalize_keys(to_config_json(family, config), family)))
    except ValueError:  # the family does not allow one of the values, such as a width
        return False
    return computation(restored) == computation(config)


def computation(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a config that determine the model's output: they are equal for two configs of the same computation. Windows,
    rotations and experts are listed layer by layer, since different configs can describe the same layers.
    """
    layers = range(max(config.encoder_layers, config.decoder_layers))
    windows, rotations, has_experts = ([of(layer) for layer in layers] for of in (config.window, config.rotation, config.has_experts))
    values = config.model_dump(
        exclude={**dict.fromkeys((*TRAINING_ONLY_FIELDS, "position", "attention"), True), "mlp": {"experts": {"layers"}}}
    )
    if experts := values["mlp"]["experts"]:
        experts |= {"hidden_dim": config.expert_dim, "layers": has_experts}
        values["hidden_dim"] = config.hidden_dim if config.has_mlp else None
    position, attention = config.position.model_dump(exclude={"layers"}), config.attention.model_dump(exclude={"windows"})
    return values | {"position": position, "attention": attention, "windows": windows, "rotations": rotations}


def to_config_json(family: Family, config: ModelConfig, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config.json for the family's Hugging Face class. Raise UnsupportedError if that class cannot express the model."""
    body = {"architectures": [family.architecture(config)], "model_type": family.model_type, **family.to_hf(config)}
    if not isinstance(config.head, LanguageModelHeadConfig | MaskedLanguageModelHeadConfig):
        body.pop("tie_word_embeddings", None)  # there is no output matrix to tie; if one is added later, the class's default applies
    return body | label_fields(config.head, labels)


def label_fields(head: HeadConfig, labels: Sequence[str]) -> dict[str, Any]:
    """Return the fields of config.json that name the classes or tags, from which Hugging Face takes the number of labels."""
    names = labels or _default_names(_count(head))
    if not names:
        return {}
    assert len(names) == _count(head), f"{len(names)} names for {_count(head)} labels"
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {name: i for i, name in enumerate(names)}}


def read_labels(hf: Mapping[str, Any], head: HeadConfig) -> tuple[str, ...]:
    """Return the names of the head's classes or tags: those in config.json if it names all, else Hugging Face's LABEL_0, LABEL_1 ..."""
    count = head.count if isinstance(head, ClassesHeadConfig | TagsHeadConfig) else 0
    known = hf.get("id2label")
    names = [known.get(str(number)) for number in range(count)] if isinstance(known, dict) and len(known) == count else []
    if names and all(isinstance(name, str) for name in names):
        return tuple(map(str, names))
    return _default_names(count)


def are_unnamed(labels: Sequence[str]) -> bool:
    """Return whether the labels have Hugging Face's default names."""
    return tuple(labels) == _default_names(len(labels))


def read_problem_type(hf: Mapping[str, Any]) -> str | None:
    """Return config.json's `problem_type`: whether a label is a number, one class or a set of classes; None if missing or unknown."""
    stated = hf.get("problem_type")
    return stated if stated in ("regression", "single_label_classification", "multi_label_classification") else None


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(count))


def _count(head: HeadConfig) -> int:
    """Return the number of the head's classes or tags; as in Hugging Face, 1 for a head that scores choices, and 0 for other heads."""
    if isinstance(head, ClassesHeadConfig | TagsHeadConfig):
        return head.count
    return int(isinstance(head, LanguageModelHeadConfig) and head.choices)


def apply_changes(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return the config with the changes of a recipe. Raise UsageError for values that the config does not accept."""
    try:
        return ModelConfig.model_validate(merge(config.model_dump(), changes), strict=True)
    except ValidationError as error:
        raise UsageError(f"the model's config does not accept these changes: {_describe(error, 'model.')}") from None


def _validated(values: Any, path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values, strict=True)  # strict: "5", 5.0 or true are no integers
    except ValidationError as error:
        raise ModelError(f"{path}: {_describe(error)}") from None


def _describe(error: ValidationError, prefix: str = "") -> str:
    """Return a config's first problems as text, each after the name of its field; a problem of several fields is without a name."""
    problems = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()[:_MAX_PROBLEMS]]
    return "; ".join(f"{prefix}{field}: {text}" if field else text for field, text in problems)

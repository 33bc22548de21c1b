"""Saving of a Transformer as a Hugging Face model folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tfkit.families.rules import Family
from tfkit.hub.config_json import OWN_TYPE, TRAINING_ONLY_FIELDS, family_of, label_fields, to_config_json
from tfkit.hub.ids import SPECIAL_IDS, merge_special_ids
from tfkit.hub.names import expected_shapes, to_foreign
from tfkit.hub.tensor_files import write_model_tensors
from tfkit.model.config import ClassesHeadConfig, ModelConfig
from tfkit.run.tfkit_json import write_tfkit_json
from tfkit.tokenizer import Tokenizer, save_tokenizer

_PAD = "pad_token_id"
_STATED = ("bos_token_id", "eos_token_id", _PAD)  # config.json has null for a missing id, so that the class's default does not apply


def save_model(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor] | None,
    tokenizer: Tokenizer | None,
    *,
    family: str | None = None,
    special_ids: Mapping[str, Any] | None = None,
    end_ids: Sequence[int] = (),
    labels: Sequence[str] = (),
    problem_type: str | None = None,
    facts: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Family | None:
    """Write config.json, generation_config.json, model.safetensors (or shards), the tokenizer's files and tfkit.json into a folder. Return
    the family in whose names and layout the weights are written; None if the names and the layout are tfkit's own.

    `tensors`: the parameters under tfkit's names, each read when it is written (None: the caller writes the weights); `family`: the name of
    the family to use if several can express the model; `special_ids`: the result of `read_ids`, empty or None to take the tokenizer's;
    `end_ids`: the ids that end a text, if they differ from the tokenizer's eos; `labels`: the names of classes or tags; `problem_type`: as
    in config.json; `facts`: the fields of tfkit.json in addition to `model` and `labels`; `generation`: the content of
    generation_config.json of the model from which this one was trained; all its keys are kept.
    """
    expressing = family_of(config, prefer=family)
    ids = dict(special_ids or {}) or _special_ids(tokenizer)
    if end_ids:
        ids["eos_token_id"] = end_ids[0] if len(end_ids) == 1 else list(end_ids)
    if config.stacks == "both":
        # If no start id is stated, a loaded model starts with the pad id, as T5 and Marian do; a new one with the id used in its training.
        start = ids.get("pad_token_id") if special_ids or tokenizer is None else tokenizer.start_id
        if start is not None:
            ids.setdefault("decoder_start_token_id", start)
    if isinstance(config.head, ClassesHeadConfig) and config.head.pool == "last" and (padding := padding_id(tokenizer)) is not None:
        ids.setdefault(_PAD, padding)  # Hugging Face's classifiers need the pad id to find the last token of a padded text
    ids = merge_special_ids(ids, generation or {})  # as `read_ids` merges config.json and generation_config.json
    own_type = {"architectures": ["Transformer"], "model_type": OWN_TYPE, "config": config.model_dump(mode="json")}
    body = to_config_json(expressing, config, labels) if expressing else {}
    if (ids or tokenizer) and body.get(_PAD) not in (None, ids.get(_PAD)):
        expressing = None  # RoBERTa's class computes positions from its pad id, so it fits the model only with the pad id in `body`
    if expressing is None:
        body = own_type | label_fields(config.head, labels)
    _write_json(
        folder / "config.json",
        {**dict.fromkeys(_STATED), **body, **ids, **({"problem_type": problem_type} if problem_type else {}), "torch_dtype": "float32"},
    )
    _write_json(folder / "generation_config.json", _generation(generation or {}, ids))
    about: dict[str, Any] = {"model": config.model_dump(mode="json", include=TRAINING_ONLY_FIELDS, exclude_none=True)}
    write_tfkit_json(folder, about | ({"labels": list(labels)} if labels else {}) | dict(facts or {}))
    if tensors is not None:
        write_model_tensors(folder, expected_shapes(expressing, config), to_foreign(tensors, expressing, config))
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    return expressing


def _generation(stated: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of generation_config.json: `ids`, and the other keys of `stated`, from the initial model's file."""
    if not stated:
        return {"_from_model_config": True, **ids}
    # A forced eos id that only config.json has is not added: transformers ignores it there, since there is a generation_config.json.
    return {**stated, **{name: value for name, value in ids.items() if name != "forced_eos_token_id" or name in stated}}


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    ids = {name: getattr(tokenizer, name.replace("_token", ""), None) for name in SPECIAL_IDS} if tokenizer else {}
    return {name: value for name, value in ids.items() if value is not None}


def padding_id(tokenizer: Tokenizer | None) -> int | None:
    """Return the id that pads texts: the pad id or, without one, the eos id unless the tokenizer ends each text with it; else None."""
    if tokenizer is None:
        return None
    return tokenizer.eos_id if tokenizer.pad_id is None and tokenizer.eos_id not in tokenizer.suffix else tokenizer.pad_id


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

"""Transformer -> a Hugging Face model folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tfkit.hub.config_json import EXPRESSED, OWN_TYPE, SPECIAL_IDS, family_of, to_config_json
from tfkit.hub.names import to_foreign
from tfkit.hub.weights import Tensors
from tfkit.model.config import ModelConfig
from tfkit.tokenizer import Tokenizer, save_tokenizer

_START = "decoder_start_token_id"
_STATED = ("bos_token_id", "eos_token_id", "pad_token_id")  # null where there is none


def save_model(
    folder: Path,
    config: ModelConfig,
    tensors: Tensors,
    tokenizer: Tokenizer | None,
    *,
    family: str | None = None,
    special_ids: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors (or shards), the tokenizer's files and tfkit.json into a folder.

    `tensors` are the parameters under our names; `family` is the one to prefer where several can express the model; `facts` go into
    tfkit.json, which says what config.json cannot.
    """
    from huggingface_hub import save_torch_state_dict

    found = family_of(config, prefer=family)
    ids = dict(special_ids or {}) or _special_ids(tokenizer)
    if config.encoder_layers and config.decoder_layers and "pad_token_id" in ids:
        ids.setdefault(_START, ids["pad_token_id"])  # as T5 and Marian begin
    own = {"architectures": ["Transformer"], "model_type": OWN_TYPE, "config": config.model_dump(mode="json")}
    body = to_config_json(found, config) if found else own
    _write_json(
        folder / "config.json",
        {**body, **dict.fromkeys(_STATED), **ids, "torch_dtype": "float32"},
    )
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    _write_json(folder / "tfkit.json", {"schema_version": 1, "model": config.model_dump(mode="json", include=EXPRESSED), **(facts or {})})
    foreign = to_foreign(tensors, found, config) if found else tensors
    whole = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in foreign.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    found = {name: getattr(tokenizer, name.replace("_token", ""), None) for name in SPECIAL_IDS} if tokenizer else {}
    return {name: value for name, value in found.items() if value is not None}


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

"""A model with LoRA updates -> a folder that `peft` opens."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tfkit.adapters.peft_config import base_record, peft_settings
from tfkit.adapters.peft_files import NAME, to_peft
from tfkit.hub import OWN_TYPE, family_of, save_model
from tfkit.hub.find import ADAPTER
from tfkit.hub.tensor_files import write_tensors
from tfkit.model.config import ModelConfig
from tfkit.recipe.schema.sections import LoraSection
from tfkit.tokenizer import Tokenizer


@dataclass(frozen=True)
class Base:
    """The base model of the updates."""

    path: str  # as in the recipe: a folder, a run folder, or hub:org/name@revision
    folder: Path
    sha256: str


def save_adapter(
    folder: Path,
    config: ModelConfig,
    trained: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    section: LoraSection,
    base: Base,
    *,
    family: str | None = None,
    facts: Mapping[str, Any],
    **details: Any,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, and the files of a model folder other than its weights.

    `trained`: the updates and the parameters that are trained in full, under our names; `details`: further arguments of `save_model`.
    """
    facts = {**facts, "adapter": {"base": base_record(folder, base.folder, base.sha256)}}
    save_model(folder, config, None, tokenizer, family=family, facts=facts, **details)
    expressing = family_of(config, prefer=family)
    peft = to_peft(trained, expressing.name if expressing else OWN_TYPE, config)
    repository, _, revision = base.path.removeprefix("hub:").partition("@")
    base_fields = {"base_model_name_or_path": str(base.folder.resolve())}
    if base.path.startswith("hub:"):
        base_fields = {"base_model_name_or_path": repository, **({"revision": revision} if revision else {})}
    settings = peft_settings(section, config, peft.ranks, peft.modules, peft.saved, transposed=peft.transposed)
    (folder / ADAPTER).write_text(json.dumps({**base_fields, **settings}, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / NAME, peft.tensors, torch.float32, {"format": "pt"})

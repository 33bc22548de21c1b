"""Write adapter folders in `peft`'s format, and load an adapter and its base as one model. `tfkit.hub` loads folders without adapters."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import tfkit.hub as hub
from tfkit.adapters.peft_config import PeftConfig, find_base, peft_settings, read_peft_config, with_task_head
from tfkit.adapters.peft_files import NAME, Updates, find_tensors, read_updates, to_peft
from tfkit.errors import ModelError
from tfkit.hub import OWN_TYPE, Described, Loaded, find_checkpoint, save_model
from tfkit.hub.config_json import LIMIT, TRAINING_ONLY_FIELDS, computation, read_config, read_generation, read_labels, read_problem_type
from tfkit.hub.find import ADAPTER
from tfkit.hub.ids import read_ids, read_tokenizer, with_model_ids
from tfkit.hub.names import label_tensors, rules_of
from tfkit.hub.tensor_files import write_tensors
from tfkit.model.config import ClassesHeadConfig, HeadConfig, ModelConfig, TagsHeadConfig
from tfkit.recipe.presets import merge
from tfkit.recipe.schema.sections import LoraSection
from tfkit.run.model_files import read_object
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.run.verified import find_named, unverified, verified
from tfkit.tokenizer import Tokenizer


def is_adapter(folder: Path) -> bool:
    """Whether a model folder holds an adapter. Raise ModelError if adapter_config.json is no regular file, or a link out of the folder."""
    return find_named(folder, ADAPTER) is not None


def base_folder(folder: Path) -> Path:
    """Return the folder of the model that an adapter updates. Raise ModelError if it is missing, or its hash is not that in tfkit.json."""
    return find_base(folder, read_peft_config(folder))


def describe(path: str | Path) -> Described:
    """Describe a model folder, or an adapter with its base, without reading weights. Raise ModelError if the folder is invalid."""
    folder = find_checkpoint(path)
    if not is_adapter(folder):
        return hub.describe(folder)
    with verified(folder, weights=False):
        return _described(folder, _open(folder))


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    head: HeadConfig | None = None,
    other_labels: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    verify: bool = True,
    defer_blocks: bool = False,
) -> Loaded:
    """Load a model as `tfkit.hub.load` does. An adapter, whether tfkit or peft wrote it, is loaded as its base with the updates added.

    `verify`: compare the files with the hashes in their folders' manifest.json, if there is one. Raise ModelError for an invalid folder.
    """
    folder = find_checkpoint(path)
    with nullcontext() if verify else unverified():
        if not is_adapter(folder):
            return hub.load(
                folder,
                device=device,
                dtype=dtype,
                head=head,
                other_labels=other_labels,
                changes=changes,
                seed=seed,
                defer_blocks=defer_blocks,
            )
        with verified(folder, weights=True):
            return _load(folder, device, dtype, head, other_labels, changes, seed, defer_blocks=defer_blocks)


def _load(
    folder: Path,
    device: str | torch.device,
    dtype: torch.dtype,
    head: HeadConfig | None,
    other_labels: bool,
    changes: Mapping[str, Any],
    seed: int,
    *,
    defer_blocks: bool,
) -> Loaded:
    opened = _open(folder)
    described = _described(folder, opened)
    updates = read_updates(folder, opened.peft, opened.family, opened.config)
    wanted_head = head or opened.config.head
    changes = merge(opened.config.model_dump(include=TRAINING_ONLY_FIELDS), changes)
    # A head with another number of labels than the base's gets random rows here, which the adapter's tensors, if they fit, replace below.
    of_base = opened.base.config.head
    redraw = other_labels or (wanted_head.kind == of_base.kind and getattr(wanted_head, "count", None) != getattr(of_base, "count", None))
    base = hub.load(opened.base.folder, head=wanted_head, other_labels=redraw, changes=changes, seed=seed, defer_blocks=defer_blocks)
    has_own_head = wanted_head == opened.config.head and not other_labels
    redrawn = label_tensors(None, base.config) if other_labels else frozenset()  # with other labels, the tensors with a row per label
    parameters = dict(base.model.named_parameters())
    replaced = {  # the adapter's tensors that fit the model; with `other_labels`, without those with a row per label
        name: tensor
        for name, tensor in updates.replaced.items()
        if name in parameters and name not in redrawn and parameters[name].shape == tensor.shape
    }
    updates = replace(updates, replaced=replaced)
    updates.apply(parameters)
    if base.model.fill_block is not None:
        base.model.fill_block = partial(_fill_updated, base.model.fill_block, updates)
    new = tuple(name for name in base.new_parameters if name not in replaced)
    if has_own_head and new:
        raise ModelError(f"{folder}: lacks {', '.join(new)}, which its base {opened.base.folder} lacks too; save the adapter with its head")
    labelled = described if has_own_head and opened.hf else base
    model = base.model if defer_blocks else base.model.to(device=device, dtype=dtype)
    return replace(
        base,
        model=model,
        codec=described.codec,
        folder=folder,
        special_ids=described.special_ids,
        labels=labelled.labels,
        problem_type=labelled.problem_type,
        new_parameters=new,
        generation=described.generation,
    )


def _fill_updated(fill: Callable[[str, nn.Module], None], updates: Updates, prefix: str, block: nn.Module) -> None:
    """Load a block's weights from the base and add the updates in float32; then convert the block back to its dtype."""
    dtype = next(block.parameters()).dtype
    block.float()
    fill(prefix, block)
    updates.apply(dict(block.named_parameters()), prefix)
    block.to(dtype)


@dataclass(frozen=True)
class _Opened:
    """An adapter and its base, without their weights."""

    peft: PeftConfig
    base: Described
    hf: dict[str, Any]  # the adapter's config.json; empty if it has none
    family: str  # the model family, by whose Hugging Face names the adapter's tensors are stored
    config: ModelConfig  # the base's configuration with the adapter's head


def _open(folder: Path) -> _Opened:
    peft = read_peft_config(folder)
    base = hub.describe(find_base(folder, peft))
    path = find_named(folder, "config.json")
    if path is None:  # peft writes no config.json
        return _Opened(peft, base, {}, base.family, _with_head(folder, peft, base))
    hf = read_object(path, LIMIT)
    family, config = read_config(hf, folder)
    own, expected = map(computation, (config, base.config))
    if different := [name for name in own if name != "head" and own[name] != expected[name]]:
        raise ModelError(f"{path}: describes a different model than its base {base.folder}: {', '.join(different)} differ")
    return _Opened(peft, base, hf, family.name if family else hub.OWN_TYPE, config)


def _described(folder: Path, opened: _Opened) -> Described:
    ids, document = read_ids(opened.hf, folder, opened.config.vocab_size) or opened.base.special_ids, read_tfkit_json(folder)
    return Described(
        folder=folder,
        config=opened.config,
        codec=with_model_ids(read_tokenizer(folder, opened.config.vocab_size) or opened.base.codec, ids),
        family=opened.family,
        special_ids=ids,
        labels=read_labels(opened.hf, opened.config.head) if opened.hf else opened.base.labels,
        problem_type=read_problem_type(opened.hf) if opened.hf else opened.base.problem_type,
        generation=read_generation(opened.hf, folder) or opened.base.generation,
        objective=document.objective,
        objective_settings=document.objective_settings,
    )


def _with_head(folder: Path, peft: PeftConfig, base: Described) -> ModelConfig:
    """Return the base's config with the head of the adapter's task; its number of classes or tags comes from the adapter's tensors."""
    config = with_task_head(peft, base)
    if not isinstance(config.head, ClassesHeadConfig | TagsHeadConfig):
        return config
    output = next(rule.theirs for rule in rules_of(base.family, config) if rule.ours[0] in ("head.classes.weight", "head.tags.weight"))
    weight = find_tensors(folder).get(output)
    if weight is None or not weight.stored.shape:
        return config
    return config.model_copy(update={"head": config.head.model_copy(update={"count": weight.stored.shape[0]})})


@dataclass(frozen=True)
class Base:
    """The base model that the updates of an adapter belong to, and the hash of its config and weights (`tfkit.hub.content_hash`)."""

    path: str  # the checkpoint as the recipe names it: a folder, a run folder, or hub:org/name@revision
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

    `trained`: the updates and the parameters that are trained in full, under tfkit's names; `details`: passed on to `save_model`.
    """
    relative = os.path.relpath(base.folder.resolve(), folder.resolve())  # so that both folders can be moved together
    facts = {**facts, "adapter": {"base": {"path": relative, "sha256": base.sha256}}}
    expressing = save_model(folder, config, None, tokenizer, family=family, facts=facts, **details)
    peft = to_peft(trained, expressing.name if expressing else OWN_TYPE, config)
    repository, _, revision = base.path.removeprefix("hub:").partition("@")
    base_fields = {"base_model_name_or_path": str(base.folder.resolve())}
    if base.path.startswith("hub:"):
        base_fields = {"base_model_name_or_path": repository, **({"revision": revision} if revision else {})}
    settings = peft_settings(section, config, peft.ranks, peft.modules, peft.saved, transposed=peft.transposed)
    (folder / ADAPTER).write_text(json.dumps({**base_fields, **settings}, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / NAME, peft.tensors, torch.float32, {"format": "pt"})

"""Loading of a Hugging Face model folder as a Transformer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.families.rules import Family
from tfkit.hub.config_json import LIMIT, OWN_TYPE, apply_changes, read_config, read_generation, read_labels, read_problem_type
from tfkit.hub.find import find_checkpoint
from tfkit.hub.ids import read_ids, read_tokenizer, stated_ends, with_model_ids
from tfkit.hub.model_writing import save_model
from tfkit.hub.names import (
    LazyBlocks,
    NamedTensors,
    expected_shapes,
    is_head_incomplete,
    label_tensors,
    missing_of_head,
    other_parts,
    read_ours,
    resolve_names,
    without_other_heads,
    without_own_head,
)
from tfkit.hub.weights import Tensors, Weight, check_claims, check_fit, find_weights
from tfkit.model.answering_linear import Int8Linear
from tfkit.model.config import HeadConfig, ModelConfig
from tfkit.model.init import allocate, initialize
from tfkit.model.transformer import Transformer, on_meta
from tfkit.run.model_files import read_object
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.run.verified import find_named, verified
from tfkit.tokenizer import Backend, Tokenizer
from tfkit.tokenizer.conversations import end_ids


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """The content of a model folder except its weights."""

    folder: Path
    config: ModelConfig
    codec: Tokenizer | None  # tfkit's wrapper of the tokenizer; None if the folder has no tokenizer
    family: str  # the name of the model's family; "tfkit" if it has none
    special_ids: dict[str, Any] = field(default_factory=dict)  # the bos, eos, pad, decoder start and forced ids in the folder's files
    labels: tuple[str, ...] = ()  # the names of classes or tags, by index
    problem_type: str | None = None  # config.json's `problem_type`: the type of the labels; None if it states none
    left_out: tuple[str, ...] = ()  # the parts of the folder's model that are not read, such as an image encoder
    generation: dict[str, Any] = field(default_factory=dict)  # the content of generation_config.json (see `read_generation`)

    def notes(self) -> list[str]:
        """Return a list of one sentence about the parts of the folder's model that are not read; [] if all are read."""
        return [f"{self.folder}: only the text part is read; left out: {', '.join(self.left_out)}"] if self.left_out else []

    def require_tokenizer(self) -> Tokenizer:
        """Return the tokenizer. Raise ModelError if the folder has none."""
        if self.codec is None:
            remedy = "put that of the model there"
            if (self.folder / "source.spm").is_file():  # Marian's
                remedy = "a pair of SentencePiece models, source.spm and target.spm, is not read"
            raise ModelError(f"{self.folder}: no tokenizer.json here, and no text can be read without it; {remedy}")
        return self.codec


@dataclass(frozen=True, kw_only=True)
class Loaded(ModelFolder):
    """The content of a model folder, with the model in memory."""

    model: Transformer
    new_parameters: tuple[str, ...] = ()  # the parameters of the head that are drawn at random, since no tensor in the files is for them

    @property
    def tokenizer(self) -> Backend | None:
        """The tokenizer itself, as an object of the `tokenizers` library."""
        return self.codec.backend if self.codec else None

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text (`tokenizer.conversations.end_ids`); without a tokenizer, the eos ids in the folder's files."""
        return [*(stated_ends(self.special_ids) if self.codec is None else end_ids(self.codec))]

    @property
    def start_id(self) -> int | None:
        """The id with which the decoder of an encoder-decoder starts; None if it is unknown."""
        stated = (self.special_ids.get(name) for name in ("decoder_start_token_id", "pad_token_id"))
        codec_pad = self.codec.pad_id if self.codec else None
        return next((token_id for token_id in stated if token_id is not None), codec_pad)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The content of the folder's tfkit.json; {} if there is no such file."""
        return read_tfkit_json(self.folder).fields

    def save(self, folder: str | Path) -> None:
        """Write a model folder as training does: float32 weights, configuration, tokenizer, and the loaded model's run id and ancestors.

        Raises ModelError for a model whose weights were quantized to 8 bits.
        """
        if any(isinstance(module, Int8Linear) for module in self.model.modules()):
            raise ModelError(
                f"{folder}: this model's weights have 8 bits, and the original ones are no longer in memory; load it without "
                "precision='int8' to save it"
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(
            Path(folder),
            self.config,
            self.model.state_dict(),
            self.codec,
            family=self.family,
            special_ids=self.special_ids,
            labels=self.labels,
            problem_type=self.problem_type,
            generation=self.generation,
            facts={name: value for name, value in self.facts.items() if name in ("run_id", "lineage")},
        )


@dataclass(frozen=True, kw_only=True)
class Described(ModelFolder):
    """A model folder without its weights."""

    objective: str | None = None  # the kind of objective that the model was trained for, from tfkit.json
    objective_settings: dict[str, Any] = field(default_factory=dict)  # those settings of the objective that affect predictions


def describe(path: str | Path) -> Described:
    """Read a model folder except the values of its weights. Raise ModelError if it is missing, damaged or unsupported."""
    folder = find_checkpoint(path)
    with verified(folder, weights=False):
        opened, document = _open(folder, None, {}), read_tfkit_json(folder)
        return Described(**opened.about(opened.hf), objective=document.objective, objective_settings=document.objective_settings)


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    head: HeadConfig | None = None,
    other_labels: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    defer_blocks: bool = False,
) -> Loaded:
    """Load a checkpoint, a run folder (its best checkpoint, else its newest) or any Hugging Face model folder with safetensors.

    The model has the head `head`, or else the head that config.json describes. Parameters of `head` that the files lack are drawn with
    `seed`, and `new_parameters` has their names. `other_labels`: the classes or tags differ from the file's, so all parameters with a row
    for each of them are drawn, too. `changes`: fields of the config, such as dropout, that replace those of the file. `defer_blocks`: each
    block stays on the meta device, in float32, until the model's `fill_block` reads it, and the rest of the model stays on the CPU; with
    another `device` or `dtype`, raise ValueError. Raise ModelError if the folder is missing, damaged, unsupported or does not fit its own
    config, or a file differs from the folder's manifest.
    """
    if defer_blocks and (torch.device(device).type != "cpu" or dtype != torch.float32):
        raise ValueError(f"defer_blocks loads a model to the CPU in float32, not to {device} in {dtype}")
    folder = find_checkpoint(path)
    with verified(folder, weights=True):
        opened = _open(folder, head, changes)
        hf, family, config, weights = opened.hf, opened.family, opened.config, opened.weights
        if other_labels:
            rows = label_tensors(family, config)
            weights = {name: weight for name, weight in weights.items() if name not in rows}
        new_head = head is not None or other_labels
        lacking = missing_of_head(weights, family, config) if new_head else frozenset()
        expected = {name: shape for name, shape in expected_shapes(family, config).items() if name not in lacking}
        check_fit(weights, expected, folder)
        has_names = config.head == opened.own_head and not other_labels  # config.json names only the labels of the head that it describes
        about = opened.about(hf if has_names else {})
        blocks = LazyBlocks(weights, family, config) if defer_blocks else None
        tensors = read_ours(weights if blocks is None else blocks.others, family, config)
        new = _draw_head(config, seed, tensors) if new_head and is_head_incomplete(tensors, config) else {}
        named = {name: tensor.to(dtype) for name, tensor in (tensors | new).items()}
        model = _fill(config, named, around_blocks=defer_blocks)
        model.fill_block = blocks
        return Loaded(model=model if defer_blocks else model.to(device), new_parameters=tuple(new), **about)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Mapping[str, Tensor]]:
    """A context with a mapping of tfkit's names to a model folder's weights, each read when looked up. Raise ModelError as `load` does."""
    folder = find_checkpoint(path)
    with verified(folder, weights=True):
        opened = _open(folder, None, {})
        check_fit(opened.weights, expected_shapes(opened.family, opened.config), folder)
        yield NamedTensors(opened.weights, opened.family, opened.config)


@dataclass(frozen=True)
class _Opened:
    """A model folder that `_open` read; its weights have the names of the family's class, with its prefix, or tfkit's names."""

    folder: Path
    hf: dict[str, Any]  # the content of config.json
    family: Family | None
    config: ModelConfig
    own_head: HeadConfig  # the head that config.json describes
    special_ids: dict[str, Any]
    weights: Mapping[str, Weight]
    left_out: tuple[str, ...]

    def about(self, of_labels: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a ModelFolder. `of_labels`: the content of config.json, or {} if it does not name the head's labels."""
        folder, config = self.folder, self.config
        return {
            "folder": folder,
            "config": config,
            "codec": with_model_ids(read_tokenizer(folder, config.vocab_size), self.special_ids),
            "family": self.family.name if self.family else OWN_TYPE,
            "special_ids": self.special_ids,
            "labels": read_labels(of_labels, config.head),
            "problem_type": read_problem_type(of_labels),
            "left_out": self.left_out,
            "generation": read_generation(self.hf, folder),
        }


def _open(folder: Path, head: HeadConfig | None, changes: Mapping[str, Any]) -> _Opened:
    """Read a model folder except the values of its weights; the caller compares their shapes. `head`, `changes`: as in `load`."""
    path = find_named(folder, "config.json")
    if path is None:
        raise ModelError(f"{folder / 'config.json'}: there is no such file; copy the folder again, or give another")
    hf = read_object(path, LIMIT)
    family, config = read_config(hf, folder)
    own_head, own_vocabulary = config.head, config.vocab_size
    if changes:
        config = apply_changes(config, changes)
    if head is not None:
        config = config.model_copy(update={"head": head})
    special_ids = read_ids(hf, folder, own_vocabulary)
    weights: Mapping[str, Weight] = find_weights(folder)
    check_claims(config, weights, folder)
    left_out = other_parts(weights, family)
    if family is not None:
        if config.head.kind != own_head.kind:
            weights = without_own_head(weights, family, config, config.model_copy(update={"head": own_head}))
        weights, config = resolve_names(weights, family, config)
    elif head is not None:
        weights = without_other_heads(weights, config)
    return _Opened(folder, hf, family, config, own_head, special_ids, weights, left_out)


def _draw_head(config: ModelConfig, seed: int, known: Tensors) -> Tensors:
    """Draw random parameters of the head, except those in `known`."""
    head = on_meta(config).head
    allocate(head)
    initialize(head, config, torch.Generator().manual_seed(seed))
    return {name: tensor for part, tensor in head.state_dict().items() if (name := f"head.{part}") not in known}


def _fill(config: ModelConfig, tensors: Tensors, *, around_blocks: bool = False) -> Transformer:
    """Build the model with copies of `tensors`. `around_blocks`: `tensors` lacks those of the blocks, which stay on the meta device."""
    model = on_meta(config)
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    model.load_state_dict(copies, assign=True, strict=not around_blocks)
    return model.requires_grad_().eval()

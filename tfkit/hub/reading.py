"""A Hugging Face model folder -> Transformer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tfkit.errors import ModelError
from tfkit.hub.config_json import OWN_TYPE, SPECIAL_IDS, read_config, read_json
from tfkit.hub.find import find_checkpoint
from tfkit.hub.names import Tensors, expected_shapes, from_foreign, on_meta, settle_names
from tfkit.hub.writing import save_model
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.tokenizer import Backend, Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model folder in memory. `codec`, our view of its tokenizer, is None where the folder has none; `family` is a family's name, or
    tfkit's own.
    """

    model: Transformer
    codec: Tokenizer | None
    config: ModelConfig
    family: str
    folder: Path
    special_ids: dict[str, Any] = field(default_factory=dict)  # bos, eos and pad ids as config.json has them

    @property
    def tokenizer(self) -> Backend | None:
        """The tokenizer itself, as the `tokenizers` library knows it."""
        return self.codec.backend if self.codec else None

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text: config.json may list several."""
        found = self.special_ids.get("eos_token_id")
        if found is None and self.codec is not None:
            found = self.codec.eos_id
        return [] if found is None else list(found) if isinstance(found, list) else [found]

    def save(self, folder: str | Path) -> None:
        """Write the model folder that training writes: float32 weights, configuration, tokenizer."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(Path(folder), self.config, self.model.state_dict(), self.codec, family=self.family, special_ids=self.special_ids)


def load(path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a checkpoint, a run folder (its best checkpoint, else its newest) or any Hugging Face model folder with safetensors.

    Raises ModelError when it is missing, damaged, unsupported or does not fit its own configuration.
    """
    folder = find_checkpoint(path)
    hf = read_json(folder / "config.json")
    family, config = read_config(hf, folder)
    foreign = _read_tensors(folder)
    if family is not None:
        foreign, config = settle_names(foreign, family, config)
    _check_fit(foreign, expected_shapes(family, config), folder)
    tensors = from_foreign(foreign, family, config) if family else foreign
    model = _fill(config, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    special_ids = {name: hf[name] for name in SPECIAL_IDS if hf.get(name) is not None}
    return Loaded(model.to(device), load_tokenizer(folder), config, family.name if family else OWN_TYPE, folder, special_ids)


def _read_tensors(folder: Path) -> Tensors:
    """All tensors of model.safetensors, or of the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{index}: weight_map does not map each tensor to a file")
        names = sorted(set(shards.values()))
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{index}: names a file outside the folder")
    else:
        names = ["model.safetensors"]
    tensors: Tensors = {}
    for name in names:
        path = folder / name
        if not path.is_file():
            pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
            why = f"; {pickles[0]} is a pickle, which can run code: convert it to safetensors where you trust it" if pickles else ""
            raise ModelError(f"{path}: there is no such file{why}")
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: is not a readable safetensors file: {error}") from None
    return tensors


def _check_fit(tensors: Tensors, expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise ModelError, listing every missing, unexpected and misshapen tensor under the name that it has in the file."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in found]
    problems += [f"unexpected: {name} {shape}" for name, shape in found.items() if name not in expected]
    problems += [
        f"misshapen: {name} {found[name]} instead of {shape}" for name, shape in expected.items() if found.get(name, shape) != shape
    ]
    if problems:
        raise ModelError(f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems))


def _fill(config: ModelConfig, tensors: Tensors) -> Transformer:
    """The model with these weights."""
    model = on_meta(config)
    model.load_state_dict({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, assign=True)
    return model.requires_grad_().eval()

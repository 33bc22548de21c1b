"""The mean of several checkpoints of one model, as the 2017 Transformer was evaluated (arXiv 1706.03762, section 6.1)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tfkit.errors import ModelError
from tfkit.hub.tensor_files import write_model_tensors
from tfkit.hub.weights import Tensors, Weight, find_weights, read_weights


def weights_bytes(folders: Sequence[Path]) -> int:
    """Return the size of all tensors of these model folders."""
    return sum(weight.stored.end - weight.stored.begin for folder in folders for weight in find_weights(folder).values())


def mean_weights(folders: Sequence[Path], advance: Callable[[int], object]) -> Tensors:
    """Return the mean of each tensor over these model folders, summed in float64, as float32, under its name in the files.

    Only one tensor at a time is held in float64. `advance` gets the number of bytes after each read. Raise ModelError if a folder has other
    tensors than the first, or cannot be read.
    """
    found = [find_weights(folder) for folder in folders]
    for folder, weights in zip(folders[1:], found[1:], strict=True):
        if (name := _differing(found[0], weights)) is not None:
            raise ModelError(f"{folder}: its tensor {name} differs from that in {folders[0]}: only checkpoints of one model have a mean")
    return {name: _mean([weights[name] for weights in found], advance) for name in found[0]}


def save_weights(folder: Path, tensors: Tensors) -> None:
    """Write model.safetensors, or shards, of tensors under their names in the files."""
    write_model_tensors(folder, {name: tensor.shape for name, tensor in tensors.items()}, tensors.items())


def _mean(stored: Sequence[Weight], advance: Callable[[int], object]) -> torch.Tensor:
    total = torch.zeros(stored[0].stored.shape, dtype=torch.float64)
    for weight in stored:
        total += read_weights({weight.name: weight})[weight.name]
        advance(weight.stored.end - weight.stored.begin)
    return total.div_(len(stored)).float()


def _differing(first: dict[str, Weight], other: dict[str, Weight]) -> str | None:
    """Return the first name that is missing from one, or has another shape or type there."""
    for name in sorted(first.keys() | other.keys()):
        one, two = (weights[name].stored[:2] if name in weights else None for weights in (first, other))
        if one != two:
            return name
    return None

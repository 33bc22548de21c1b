"""The mean of several checkpoints of one model, as the 2017 Transformer was evaluated (arXiv 1706.03762, section 6.1)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tfkit.errors import ModelError
from tfkit.hub.tensor_files import write_model_tensors
from tfkit.hub.weights import Tensors, Weight, find_weights, read_weights


def weights_bytes(folders: Sequence[Path]) -> int:
    """Return the total size of the tensors of these model folders, in bytes."""
    return sum(weight.stored.end - weight.stored.begin for folder in folders for weight in find_weights(folder).values())


def mean_weights(folders: Sequence[Path], advance: Callable[[int], object]) -> Tensors:
    """Return the mean of each tensor over these model folders, summed in float64, as float32, under its name in the files.

    Only one tensor at a time is held in float64. `advance` is called with the number of bytes after each read. Raise ModelError if the
    tensors of a folder differ from the first one's in name, shape or type, or cannot be read.
    """
    stored = [find_weights(folder) for folder in folders]
    for folder, weights in zip(folders[1:], stored[1:], strict=True):
        if (name := _first_difference(stored[0], weights)) is not None:
            raise ModelError(f"{folder}: its tensor {name} differs from that in {folders[0]}: only checkpoints of one model have a mean")
    return {name: _mean([weights[name] for weights in stored], advance) for name in stored[0]}


def save_weights(folder: Path, tensors: Tensors) -> None:
    """Write tensors, under the names that they have in model files, to model.safetensors or shards."""
    write_model_tensors(folder, {name: tensor.shape for name, tensor in tensors.items()}, tensors.items())


def _mean(stored: Sequence[Weight], advance: Callable[[int], object]) -> torch.Tensor:
    total = torch.zeros(stored[0].stored.shape, dtype=torch.float64)
    for weight in stored:
        total += read_weights({weight.name: weight})[weight.name]
        advance(weight.stored.end - weight.stored.begin)
    return total.div_(len(stored)).float()


def _first_difference(first: dict[str, Weight], second: dict[str, Weight]) -> str | None:
    """Return the first name whose tensor is missing from one model, or differs in type or shape; None if all are alike."""
    layouts = [{name: weight.stored[:2] for name, weight in weights.items()} for weights in (first, second)]
    return next((name for name in sorted(first.keys() | second.keys()) if layouts[0].get(name) != layouts[1].get(name)), None)

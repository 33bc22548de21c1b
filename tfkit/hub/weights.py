"""Reading of a folder's safetensors files: first the headers, which are compared with config.json, and only then the tensors.

Also the mean of the weights of several checkpoints, with which the 2017 Transformer was evaluated (arXiv 1706.03762, section 6.1).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.hub.find import unread_format
from tfkit.model.config import ModelConfig
from tfkit.run.model_files import MIB, read_object
from tfkit.run.safetensors_header import MAX_TENSORS, Stored, read_header
from tfkit.run.verified import find_named

Tensors = dict[str, Tensor]
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_INDEX_LIMIT = 32 * MIB
_FLOATS = ("F32", "F16", "BF16", "F64")
_MAX_LINES = 20  # the maximum number of lines in a message for one kind of difference


@dataclass(frozen=True)
class Weight:
    """A tensor in a file, or a part of such a tensor."""

    path: Path
    name: str  # the name of the whole tensor in the file
    stored: Stored  # the dtype and the shape (that of the part, if it is one), and the byte range of the whole tensor
    part: tuple[int, slice] | None = None  # of a stack of matrices: a matrix's index and a range of its rows; None: the whole tensor


def find_weights(folder: Path) -> dict[str, Weight]:
    """Return all tensors of model.safetensors or, without that file, of the shards in the index, by name. Only headers are read.

    Raise ModelError for a file that is missing, outside the folder or not safetensors, and for an index that contradicts its shards.
    """
    whole, index = find_named(folder, _WHOLE), find_named(folder, _INDEX)
    if whole is not None:  # if there is an index, too, the whole file is read, as in transformers
        return {name: Weight(whole, name, stored) for name, stored in read_header(whole).items()}
    if index is not None:
        return _find_shards(folder, index)
    unread = [path for path in folder.iterdir() if unread_format(path)]
    unread.sort(key=lambda path: ("model" not in path.name, path))  # model files first, optimizer.pt of transformers later
    raise ModelError(unread_format(unread[0]) if unread else f"{folder / _WHOLE}: there is no such file; copy the folder again")


def read_weights(weights: Mapping[str, Weight]) -> Tensors:
    """Read tensors, and return them under the keys of `weights`, not their names in the files. Raise ModelError if a file is unreadable."""
    tensors: Tensors = {}
    for path in sorted({weight.path for weight in weights.values()}):
        try:
            with safe_open(path, framework="pt") as file:
                for name, weight in weights.items():
                    if weight.path == path:
                        tensors[name] = file.get_slice(weight.name)[weight.part] if weight.part else file.get_tensor(weight.name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: is not a readable safetensors file: {error}; copy it again") from None
    return tensors


def _find_shards(folder: Path, index: Path) -> dict[str, Weight]:
    weight_map = _read_weight_map(index)
    shards = {shard: find_named(folder, shard) for shard in sorted(set(weight_map.values()))}
    weights: dict[str, Weight] = {}
    for shard, path in shards.items():
        if path is None:
            raise ModelError(f"{folder / shard}: there is no such file, but {_INDEX} names it; copy the folder again")
        for name, stored in read_header(path).items():
            if weight_map.get(name) != shard:
                place = f"places it in {weight_map[name]}" if name in weight_map else "does not know it"
                raise ModelError(f"{path}: holds the tensor {name}, but {_INDEX} {place}; copy the folder again")
            weights[name] = Weight(path, name, stored)
    missing = [name for name in weight_map if name not in weights]
    if missing:
        raise ModelError(
            f"{folder / weight_map[missing[0]]}: has no tensor {missing[0]!r}, but {_INDEX} places it there; copy the folder again"
        )
    return weights


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return the file name of each tensor's shard from an index."""
    shards = read_object(index, _INDEX_LIMIT).get("weight_map")
    if not isinstance(shards, dict) or not 0 < len(shards) <= MAX_TENSORS or not all(map(_is_shard, shards.values())):
        raise ModelError(f"{index}: weight_map does not map each tensor to a file of this folder, *.safetensors; copy it again")
    return shards


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") and name.isprintable()


def check_claims(config: ModelConfig, weights: Mapping[str, Weight], folder: Path) -> None:
    """Raise ModelError if config.json describes a larger model than the files can hold, before memory is allocated for the model."""
    rows = {"num_heads x head_dim": config.num_heads * config.head_dim}
    if config.has_mlp:
        rows["hidden_dim"] = config.hidden_dim
    if config.mlp.experts is not None:
        rows["mlp.experts.count x hidden_dim"] = config.mlp.experts.count * config.expert_dim
    claimed = [(name, count, config.dim) for name, count in rows.items()]
    tables = {"vocab_size": config.vocab_size, "context_length": config.position_rows}
    claimed += [(name, count, config.embedding_dim) for name, count in tables.items()]
    elements = sum(math.prod(weight.stored.shape) for weight in weights.values())
    layers = config.encoder_layers + config.decoder_layers
    claims = [f"{layers:,} layers, the files hold {len(weights):,} tensors"] if layers > len(weights) else []
    claims += [
        f"{name} {count:,} with dim {width:,}, the files hold {elements:,} numbers in all"
        for name, count, width in claimed
        if count * width > elements
    ]
    if claims:
        raise ModelError(f"{folder}: the weights do not fit config.json: it has {'; '.join(claims)}; copy both again, from the same source")


def check_fit(weights: Mapping[str, Weight], expected: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise ModelError, which lists the differences, unless the tensors have the expected names and shapes, and floating-point types."""
    shapes = {name: weight.stored.shape for name, weight in weights.items()}
    types = {name: weight.stored.dtype for name, weight in weights.items()}
    kinds = [
        [f"missing: {name} {shape}" for name, shape in expected.items() if name not in shapes],
        [f"unexpected: {name} {shape}" for name, shape in shapes.items() if name not in expected],
        [f"misshapen: {name} {shapes[name]} instead of {shape}" for name, shape in expected.items() if shapes.get(name, shape) != shape],
        [f"mistyped: {name} {dtype}, not one of {', '.join(_FLOATS)}" for name, dtype in types.items() if dtype not in _FLOATS],
    ]
    more = [[f"and {len(kind) - _MAX_LINES:,} more"] if len(kind) > _MAX_LINES else [] for kind in kinds]
    problems = [line for kind, rest in zip(kinds, more, strict=True) for line in [*kind[:_MAX_LINES], *rest]]
    if problems:
        raise ModelError(
            f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems) + "\nCopy both again, from the same source"
        )


def weights_bytes(folders: Sequence[Path]) -> int:
    """Return the total size of the tensors of these model folders, in bytes."""
    return sum(weight.stored.end - weight.stored.begin for folder in folders for weight in find_weights(folder).values())


def mean_weights(folders: Sequence[Path], advance: Callable[[int], object]) -> Tensors:
    """Return the mean of each tensor over these model folders, by its name in the files: summed in float64, and returned in float32.

    `advance` is called after each read, with the number of bytes read. Raise ModelError if the tensors of a folder cannot be read, or
    differ from those of the first folder in name, shape or type.
    """
    stored = [find_weights(folder) for folder in folders]
    layouts = [{name: weight.stored[:2] for name, weight in weights.items()} for weights in stored]  # types and shapes
    for folder, layout in zip(folders, layouts, strict=True):
        differing = [name for name in sorted({*layout, *layouts[0]}) if layout.get(name) != layouts[0].get(name)]
        if differing:
            where = f"its tensor {differing[0]} differs from that in {folders[0]}"
            raise ModelError(f"{folder}: {where}: only checkpoints of one model have a mean")
    return {name: _mean([weights[name] for weights in stored], advance) for name in stored[0]}


def _mean(stored: Sequence[Weight], advance: Callable[[int], object]) -> torch.Tensor:
    total = torch.zeros(stored[0].stored.shape, dtype=torch.float64)
    for weight in stored:
        total += read_weights({weight.name: weight})[weight.name]
        advance(weight.stored.end - weight.stored.begin)
    return total.div_(len(stored)).float()

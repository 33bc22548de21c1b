"""Writing of safetensors files one tensor at a time: the header first, from types and shapes, then each tensor at its offset.

A save thus needs no second copy of the weights, even if the tensors are merged, fused, or copied from a GPU. A file equals that of
`safetensors.torch.save_file` byte for byte, and shards equal those of `huggingface_hub.save_torch_state_dict`.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

SHARD_BYTES = 5 * 10**9  # largest size of a file's tensors in bytes; a larger tensor has a file of its own
_MODEL_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_TYPES = {  # in safetensors' order of types; the tensors in a file are sorted by type, in the reverse of this order
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_ORDER = dict(zip(_TYPES, range(len(_TYPES)), strict=True))
Layout = Mapping[str, tuple[torch.dtype, Sequence[int]]]  # type and shape of each tensor, by name


class LazyTensors(Mapping[str, Tensor], ABC):
    """Tensors by name, each of which is computed when it is accessed."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The types and shapes of the tensors, which are known before any tensor is computed."""


class TensorFile:
    """A context that writes a safetensors file. In it, `write` must be called once for each tensor of the layout, in any order."""

    def __init__(self, path: Path, layout: Layout, metadata: Mapping[str, str] | None = None):
        self.path, self.layout = path, layout
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        self._offsets: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in sorted(layout.items(), key=lambda item: (-_ORDER[item[1][0]], item[0])):
            self._offsets[name], end = end, end + prod(shape) * dtype.itemsize
            header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [self._offsets[name], end]}
        self.end = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text = text.ljust(-(-len(text) // 8) * 8)  # padded with spaces, so that the tensors are aligned
        self._header = len(text).to_bytes(8, "little") + text

    def write_zeros(self) -> None:
        """Write a file whose tensors are all zeros: a sparse file, which takes almost no disk space."""
        with self.path.open("wb") as file:
            file.write(self._header)
            file.truncate(len(self._header) + self.end)

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        self._file.write(self._header)
        self._missing = set(self.layout)
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        self._file.close()
        assert kind is not None or not self._missing, self._missing

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, converted to its type in the layout."""
        dtype, shape = self.layout[name]
        assert tuple(tensor.shape) == tuple(shape), (name, tensor.shape, shape)
        self._missing.remove(name)
        self._file.seek(len(self._header) + self._offsets[name])
        self._file.write(tensor.detach().to("cpu", dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to one file, all in the type `dtype` (None: each in its own type)."""
    layout = tensors.layout if isinstance(tensors, LazyTensors) else {name: (t.dtype, t.shape) for name, t in tensors.items()}
    with TensorFile(path, {name: (dtype or own_dtype, shape) for name, (own_dtype, shape) in layout.items()}, metadata) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)


def write_model_tensors(folder: Path, shapes: Mapping[str, Sequence[int]], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write model.safetensors in float32 or, for more than SHARD_BYTES, shards and their index, in place of any such files in the folder.

    `shapes`: the shapes of all tensors, by name. `tensors` yields the tensors in any order; at most two of them are in memory together.
    """
    shards = _split(shapes)
    count = len(shards)
    names = ["model.safetensors"] if count == 1 else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    for path in [path for path in folder.iterdir() if _MODEL_FILE.fullmatch(path.name)]:
        path.unlink()
    with ExitStack() as stack:
        files: dict[str, TensorFile] = {}
        for shard, file_name in zip(shards, names, strict=True):
            layout = {name: (torch.float32, shapes[name]) for name in shard}
            files |= dict.fromkeys(shard, stack.enter_context(TensorFile(folder / file_name, layout, {"format": "pt"})))
        for name, tensor in tensors:
            files[name].write(name, tensor)
    if count > 1:
        weight_map = {name: file_name for shard, file_name in zip(shards, names, strict=True) for name in shard}
        metadata = {"total_size": sum(map(_bytes, shapes.values())), "format": "pt"}
        index = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2)
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def _split(shapes: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Return the names of the tensors in each shard, in the order of `shapes`. A tensor larger than SHARD_BYTES has a shard of its own."""
    shards: list[list[str]] = []
    current: list[str] = []
    size = 0  # bytes in the current shard
    for name, shape in shapes.items():
        if _bytes(shape) > SHARD_BYTES:
            shards.append([name])
            continue
        if size + _bytes(shape) > SHARD_BYTES:
            shards.append(current)
            current, size = [], 0
        current.append(name)
        size += _bytes(shape)
    return [*shards, current] if current else shards


def _bytes(shape: Sequence[int]) -> int:
    return prod(shape) * torch.float32.itemsize

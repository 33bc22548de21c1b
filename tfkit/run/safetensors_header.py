"""The header of a safetensors file, validated before the file is mapped or passed to the library.

    8 bytes   N, little-endian
    N bytes   JSON: {"name": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
    the rest  the tensors, contiguous; offsets count from here

A valid header is small, and assigns every byte of the file to exactly one tensor.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.errors import ModelError
from tfkit.run import strict_json

MAX_HEADER = 16 << 20  # bytes
MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 8
_MAX_NAME = 256  # characters
_METADATA = "__metadata__"
_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_ITEM_BYTES |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
_NOT_SAFETENSORS = {b"PK\x03\x04": "a zip file, as PyTorch's pickles are", b"\x80": "a pickle"}


class Stored(NamedTuple):
    """A tensor in the file: its dtype as named by safetensors, its shape, and its byte range, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in file order. Raises ModelError with the file and the tensor."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if reason := _refusal(start, length, size):
                raise ModelError(f"{path}: is not a readable safetensors file: {reason}; copy it again from its origin")
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        return _tensors(text, size - 8 - length)
    except ValueError as error:
        raise ModelError(f"{path}: is not a readable safetensors file: {error}; copy it again from its origin") from None


def _refusal(start: bytes, length: int, size: int) -> str | None:
    """Return why the file is refused, given its first 8 bytes, the length of its header and its size; None if it is not."""
    if len(start) < 8:
        return f"{size} bytes are too short for a header"
    if length <= size - 8 and length <= MAX_HEADER:
        return None
    for signature, kind in _NOT_SAFETENSORS.items():
        if start.startswith(signature):
            return f"it is {kind}, which can run code and is never opened"
    if length > MAX_HEADER:
        return f"its header of {length:,} bytes is longer than the limit of {MAX_HEADER:,}"
    return f"its header of {length:,} bytes ends beyond the file's {size:,}: it was cut off, or is something else"


def _tensors(text: bytes, size: int) -> dict[str, Stored]:
    """Return the tensors of a header that precedes `size` bytes of data. Raises ValueError."""
    if not text.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    # Each tensor has three opening brackets and a few commas. They are counted before parsing, since Python's objects take far more memory.
    if text.count(b"[") + text.count(b"{") > 4 * MAX_TENSORS or text.count(b",") > 6 * MAX_TENSORS:
        raise ValueError(f"its header holds more than {MAX_TENSORS:,} tensors")
    try:
        header = strict_json.loads(text)
    except ValueError as error:
        raise ValueError(f"its header is not strict JSON ({error})") from None
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} does not map names to strings")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"its header holds {len(header):,} tensors, more than the limit of {MAX_TENSORS:,}")
    tensors = sorted(((name, _stored(name, entry)) for name, entry in header.items()), key=lambda pair: pair[1][2:])
    end = 0
    for name, stored in tensors:
        if stored.begin != end:
            raise ValueError(f"tensor {name!r} begins at byte {stored.begin:,}, but the tensor before it ends at {end:,}")
        end = stored.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end:,} of {size:,}: it was cut off, or holds more than tensors")
    return dict(tensors)


def _stored(name: str, entry: Any) -> Stored:
    """Return the tensor that an entry of the header describes. Raises ValueError if the entry is inconsistent."""
    if len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError(f"the tensor name {name[:40]!r}... is too long or not printable")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the shape of tensor {name!r} is not a list of at most {_MAX_DIMENSIONS} numbers")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"the data_offsets of tensor {name!r} are not two numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} of {dtype} and shape {shape} does not take the {end - begin:,} bytes of its data_offsets")
    return Stored(dtype, tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    """Return whether `values` is a list of non-negative integers that fit into 64 bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)

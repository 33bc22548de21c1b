"""The header of a safetensors file, checked before the file is mapped or handed to the library.

    8 bytes   N, little-endian
    N bytes   JSON: {"name": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
    the rest  the tensors, one after the other without a gap; offsets count from here

A header that passes is small, and assigns every byte of the file to one tensor.
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
    """A tensor of a file: its type as safetensors names it, its shape, and where its bytes begin and end, from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in the order of their bytes. Raises ModelError naming the file and the tensor."""
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
    """Return the reason to refuse a file for its first 8 bytes; None if there is none."""
    if len(start) < 8:
        return f"{size} bytes are too short for a header"
    if length <= size - 8 and length <= MAX_HEADER:
        return None
    for signature, kind in _NOT_SAFETENSORS.items():
        if start.startswith(signature):
            return f"it is {kind}, which can run code and is never opened"
    if length > MAX_HEADER:
        return f"a header of {length:,} bytes, where {MAX_HEADER:,} are the most"
    return f"its header of {length:,} bytes ends beyond the file's {size:,}: it was cut off, or is something else"


def _tensors(text: bytes, size: int) -> dict[str, Stored]:
    """Return the tensors of a header that precedes `size` bytes of data. Raises ValueError."""
    if not text.startswith(b"{"):
        raise ValueError("its header is not a JSON object")
    # Each tensor takes three opening brackets and a few commas. Counted before parsing: Python's lists and numbers are far larger.
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
        raise ValueError(f"its header holds {len(header):,} tensors, where {MAX_TENSORS:,} are the most")
    tensors = sorted(((name, _stored(name, entry)) for name, entry in header.items()), key=lambda pair: pair[1][2:])
    at = 0
    for name, stored in tensors:
        if stored.begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {stored.begin:,}, where the one before ends at {at:,}")
        at = stored.end
    if at != size:
        raise ValueError(f"its tensors end at byte {at:,} of {size:,}: it was cut off, or holds more than tensors")
    return dict(tensors)


def _stored(name: str, entry: Any) -> Stored:
    """Return a header's entry of one tensor. Raises ValueError if it is inconsistent."""
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
    """Return whether this is a list of whole numbers from 0 that fit 64 bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)

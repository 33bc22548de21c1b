"""The header of a safetensors file, validated before its tensors are read.

    8 bytes   the number N, little-endian
    N bytes   JSON: {"name": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
    the rest  the tensors, contiguous; offsets count from here

The library safetensors checks the fields, and that the header assigns every byte after it to exactly one tensor. It allows duplicate
names, names that move a terminal's cursor, and headers that take hundreds of megabytes of memory; this module refuses all three.
"""

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from tfkit.errors import ModelError
from tfkit.recipe.reading.problems import cut
from tfkit.run import strict_json

MAX_HEADER = 16 << 20  # bytes
MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 8
_MAX_NAME = 256  # characters
_MAX_REASON = 300  # characters
_NOT_SAFETENSORS = {b"PK\x03\x04": "a zip file, as PyTorch's pickles are", b"\x80": "a pickle"}


class Stored(NamedTuple):
    """A tensor in the file: the name of its dtype, such as F32, its shape, and its byte range, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in the order of their bytes. Raises ModelError, which names the file."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER:
                kinds = [kind for signature, kind in _NOT_SAFETENSORS.items() if start.startswith(signature)]
                pickle = f"it is {kinds[0]}, which can run code and is never opened" if kinds else ""
                raise ValueError(pickle or f"its header of {length:,} bytes is longer than the limit of {MAX_HEADER:,}")
            text = file.read(length)
        # Each tensor has three opening brackets and a few commas. They are counted before parsing, since the result takes far more memory.
        if text.count(b"[") + text.count(b"{") > 4 * MAX_TENSORS or text.count(b",") > 6 * MAX_TENSORS:
            raise ValueError(f"its header holds more than {MAX_TENSORS:,} tensors")
        with safe_open(path, framework="numpy"):
            return _tensors(text)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, SafetensorError) as error:
        reason = cut(f"it is damaged or was cut off ({error})" if isinstance(error, SafetensorError) else str(error), _MAX_REASON)
        raise ModelError(f"{path}: is not a readable safetensors file: {reason}; copy it again from its origin") from None


def _tensors(text: bytes) -> dict[str, Stored]:
    """Return the tensors of a header that safetensors accepted, in the order of their bytes. Raises ValueError for unusual entries."""
    header = strict_json.loads(text)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if len(name) > _MAX_NAME or not name.isprintable():
            raise ValueError(f"the tensor name {name[:40]!r}... is too long or not printable")
        # The library also accepts an array as an entry, {"F32": null} in place of "F32", and unknown fields.
        if not isinstance(entry, dict) or len(entry) > 3 or not isinstance(entry["dtype"], str) or len(entry["shape"]) > _MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} is not described by a dtype, a shape of at most {_MAX_DIMENSIONS} numbers and data_offsets")
    tensors = ((name, Stored(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])) for name, entry in header.items())
    return dict(sorted(tensors, key=lambda pair: pair[1][2:]))

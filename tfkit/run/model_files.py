"""Read the files of an untrusted model folder: only regular files inside the folder, only up to a limit of size, and only strict JSON.

The header of a safetensors file is validated before its tensors are read:

    8 bytes   the number N, little-endian
    N bytes   JSON: {"name": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
    the rest  the tensors, contiguous; offsets count from here

The library safetensors checks the fields, and that the header assigns every byte of the file to exactly one tensor. It allows duplicate
names, names that move a terminal's cursor, and headers that take hundreds of megabytes of memory; this module refuses all three.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from tfkit.errors import ModelError, OtherVersionError
from tfkit.recipe.reading.problems import cut
from tfkit.run import strict_json

MIB = 1 << 20
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


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name`; None if it does not exist. Raises ModelError for a link out of the folder or a non-regular file.

    Links in the Hub's cache, from the folder snapshots/... to blobs/ of the same repository, are allowed.
    """
    path = folder / name
    try:
        if not os.path.lexists(path):
            return None
        root, target = folder.resolve(), path.resolve()
        mode = target.stat().st_mode
    except FileNotFoundError:
        raise ModelError(f"{path}: a link to nothing; copy the folder again, with the files themselves") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        raise ModelError(f"{path}: cannot be read ({error}); check the folder and its permissions") from None
    blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(target.is_relative_to(allowed) for allowed in (root, *blobs)):
        raise ModelError(f"{path}: a link that leads out of the folder, refused as unsafe; put the file itself there")
    if not stat.S_ISREG(mode):
        raise ModelError(f"{path}: not a file; copy the folder again")
    return path


def read_text(path: Path, limit: int) -> str:
    """Return the text of a UTF-8 file. Raises ModelError, also if the file has more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if len(content) > limit:
        raise ModelError(
            f"{path}: larger than {limit / MIB:g} MiB, more than such a file ever has; copy it again from a source that you trust"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: byte {error.start} is not UTF-8; copy the file again") from None


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Return the object in a strict JSON file. Raises ModelError, also if it has over `limit` bytes or a lone surrogate."""
    document = parse_json(read_text(path, limit), path)
    if not isinstance(document, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(document).__name__}; copy the file again")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ModelError(f"{path}: a string holds half a character (a lone surrogate); copy the file again") from None
    return document


def parse_json(text: str, path: Path) -> Any:
    """Return the value of `text`, strict JSON. Raises ModelError with `path` and, for a syntax error, the position."""
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}); copy the file again") from None
    except ValueError as error:
        raise ModelError(f"{path}: not strict JSON ({error}); copy the file again") from None


def check_version(document: Mapping[str, Any], path: Path, version: int) -> None:
    """Raise OtherVersionError if a later version of tfkit wrote the document at `path`, ModelError if its schema_version is invalid.

    Call this function before any other field is read, since a later version may have another format. A document without schema_version
    passes.
    """
    written = document.get("schema_version", version)
    if type(written) is not int or written < 1:
        raise ModelError(f"{path}: schema_version {written!r:.80} is not a version number; copy the file again")
    if written > version:
        raise OtherVersionError(
            f"{path}: schema_version {written}, written by a later version of tfkit; this one reads up to {version}. Use that version"
        )


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in file order. Raises ModelError, which names the file."""
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
    """Return the tensors of a header that safetensors accepted, in file order. Raises ValueError for unusual names and entries."""
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

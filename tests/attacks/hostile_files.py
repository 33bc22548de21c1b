"""Hostile files that tests pass to the program. Nothing here is dangerous to read: the pickles only create an empty file."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file with this header (JSON, or bytes as given), with the header's own length unless `length` is given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BY_THE_LIBRARY = (
    "it is damaged or was cut off (Error while deserializing header: "  # the message of safetensors, whose further words are its own
)

# name: the content of the file, and a part of the error message
SAFETENSORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", BY_THE_LIBRARY),
    "seven bytes": (lambda: b"\1\0\0\0\0\0\0", BY_THE_LIBRARY),
    "length 2^63": (lambda: safetensors({}, length=1 << 63), "its header of 9,223,372,036,854,775,808 bytes"),
    "length 2^64 - 1": (lambda: safetensors({}, length=(1 << 64) - 1), "its header of"),
    "length beyond the file": (lambda: safetensors({}, length=1000), BY_THE_LIBRARY),
    "100 MB of JSON": (lambda: safetensors(b" " * 100_000_000), "its header of 100,000,000 bytes"),
    "a million keys": (lambda: safetensors(b"{" + b",".join(b'"%d":0' % i for i in range(10**6)) + b"}"), "more than 100,000 tensors"),
    "16 MB of lists": (lambda: safetensors(b'{"a":[' + b"[]," * 5_000_000 + b"[]]}"), "more than 100,000 tensors"),
    "200,000 empty tensors": (
        lambda: safetensors({f"{i}": tensor("I8", (0,), (0, 0)) for i in range(200_000)}),
        "more than 100,000 tensors",
    ),
    "16 MB of digits": (lambda: safetensors(b'{"a":' + b"9" * 16_000_000 + b"}"), BY_THE_LIBRARY),
    "nested deeply": (lambda: safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), BY_THE_LIBRARY),
    "no JSON": (lambda: safetensors(b"{'a': 1}"), BY_THE_LIBRARY),
    "no object": (lambda: safetensors([]), BY_THE_LIBRARY),
    "no UTF-8": (lambda: safetensors(b'{"\xff": 1}'), BY_THE_LIBRARY),
    "not a number": (lambda: safetensors(b'{"a": NaN}'), BY_THE_LIBRARY),
    "a name twice": (lambda: safetensors(b'{"a": %b, "a": %b}' % ((json.dumps(tensor()).encode(),) * 2), bytes(8)), "a key occurs twice"),
    "metadata of numbers": (lambda: safetensors({"__metadata__": {"format": 1}}), BY_THE_LIBRARY),
    "overlapping": (lambda: safetensors({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)), BY_THE_LIBRARY),
    "a gap": (lambda: safetensors({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)), BY_THE_LIBRARY),
    "the same bytes twice": (lambda: safetensors({"a": tensor(), "b": tensor()}, bytes(8)), BY_THE_LIBRARY),
    "backwards": (lambda: safetensors({"a": tensor(offsets=(8, 0))}, bytes(8)), BY_THE_LIBRARY),
    "data cut off": (lambda: safetensors({"a": tensor()}, bytes(7)), BY_THE_LIBRARY),
    "data left over": (lambda: safetensors({"a": tensor()}, bytes(9)), BY_THE_LIBRARY),
    "an unknown dtype": (lambda: safetensors({"a": tensor("F33")}, bytes(8)), BY_THE_LIBRARY),
    "a dtype of another size": (lambda: safetensors({"a": tensor("F64")}, bytes(8)), BY_THE_LIBRARY),
    "a dtype that is a list": (lambda: safetensors({"a": tensor([])}, bytes(8)), BY_THE_LIBRARY),
    "a dtype that is an object": (lambda: safetensors({"a": tensor({"F32": None})}, bytes(8)), "tensor 'a' is not described by"),
    "a dtype of 1 MB": (lambda: safetensors({"a": tensor("\x1b[2J" * 250_000)}, bytes(8)), BY_THE_LIBRARY),
    "a negative shape": (lambda: safetensors({"a": tensor(shape=(-1, -2))}, bytes(8)), BY_THE_LIBRARY),
    "a shape of true": (lambda: safetensors({"a": tensor(shape=(True, 2))}, bytes(8)), BY_THE_LIBRARY),
    "a shape of 2.0": (lambda: safetensors({"a": tensor(shape=(2.0,))}, bytes(8)), BY_THE_LIBRARY),
    "a shape that overflows": (lambda: safetensors({"a": tensor(shape=(1 << 32, 1 << 32, 2))}, bytes(8)), BY_THE_LIBRARY),
    "a shape of 10^30": (lambda: safetensors({"a": tensor(shape=(10**30,))}, bytes(8)), BY_THE_LIBRARY),
    "nine dimensions": (lambda: safetensors({"a": tensor(shape=(1,) * 8 + (2,))}, bytes(8)), "tensor 'a' is not described by"),
    "one offset": (lambda: safetensors({"a": tensor(offsets=(8,))}, bytes(8)), BY_THE_LIBRARY),
    "no offsets": (lambda: safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), BY_THE_LIBRARY),
    "a field too many": (lambda: safetensors({"a": tensor() | {"code": "x"}}, bytes(8)), "tensor 'a' is not described by"),
    "a tensor that is a number": (lambda: safetensors({"a": 3}, bytes(8)), BY_THE_LIBRARY),
    "a tensor that is an array": (lambda: safetensors({"a": ["F32", [2], [0, 8]]}, bytes(8)), "tensor 'a' is not described by"),
    "a name of 1 MB": (lambda: safetensors({"a" * 10**6: tensor()}, bytes(8)), "is too long"),
    "a name that moves the cursor": (lambda: safetensors({"\x1b[2J": tensor()}, bytes(8)), "not printable"),
}


class Canary:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def zipped_pickle(canary: Path) -> bytes:
    """Return a file as torch.save writes it, with code in it."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "code": Canary(canary)}, buffer)
    return buffer.getvalue()


# Forms of a pickle; each creates `canary` when it is opened.
PICKLES: dict[str, Callable[[Path], bytes]] = {
    "zip": zipped_pickle,
    "protocol 0": lambda canary: pickle.dumps(Canary(canary), 0),
    "protocol 2": lambda canary: pickle.dumps(Canary(canary), 2),
    "protocol 5": lambda canary: pickle.dumps(Canary(canary), 5),
}

"""Random damage, from a seed: bytes flipped, cut, repeated and overwritten, and values of JSON replaced, removed and moved."""

import copy
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tiny_files import at, places

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 255, 65536, 2**31, 2**32 - 1, 2**63, 10**12, 10**30, 0.5, -2.5, 1e308, 5e-324),
    *("", "x", "the", "<s>", "</s>", "\ud800", "\0", "é", "a" * 5000, "(a+)+$", "[", "../x", "gpt2", "llama", "tfkit", "F16", "BPE"),
    "ByteLevel",
    *([], {}, [[]], [1], [None], ["a", "b"], {"a": 1}, {"type": "Sequence"}, {"type": "Lowercase"}, {"String": "a"}, {"Regex": "("}),
]


def damage(path: Path, dice: Random) -> None:
    """Damage a file once or twice."""
    for _ in range(dice.choice((1, 1, 1, 2))):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        try:
            if path.suffix == ".json" and dice.random() < 0.7:
                data = json.dumps(mutated_values(json.loads(data), dice)).encode()
            elif path.suffix == ".safetensors" and dice.random() < 0.6:
                header = json.dumps(mutated_values(json.loads(data[8 : 8 + length]), dice)).encode()
                data = struct.pack("<Q", len(header)) + header + data[8 + length :]
            else:
                data = mutated_bytes(data, dice)
        except ValueError:  # no JSON after the first damage
            data = mutated_bytes(data, dice)
        path.write_bytes(data)


def mutated_bytes(content: bytes, dice: Random, pieces: Sequence[bytes] = (), most: int = 100) -> bytes:
    """Return the content with one change of at most so many bytes, or cut; `pieces` are put in as random bytes are."""
    data = bytearray(content)
    start, length = dice.randrange(len(data) + 1), dice.choice((1, 2, 8, most))
    if dice.random() < 0.3:
        start = min(start, dice.randrange(64))  # where formats describe what follows
    piece = dice.choice([dice.randbytes(length), bytes([dice.choice((0, 32, 255))]) * length, *pieces])
    match dice.choice(("flip", "cut", "remove", "insert", "overwrite", "repeat")):
        case "flip" if data[start:]:
            data[start] ^= 1 << dice.randrange(8)
        case "cut":
            del data[start:]
        case "remove":
            del data[start : start + length]
        case "overwrite":
            data[start : start + length] = piece
        case "repeat":
            data[start:start] = data[start : start + length] * dice.choice((1, 50))
        case _:
            data[start:start] = piece
    return bytes(data)


def mutated_values(document: Any, dice: Random, values: Sequence[Any] = VALUES, names: Sequence[str] = ("x", "")) -> Any:
    """Return the document with one value replaced, removed, wrapped, renamed, or moved to another's place."""
    document = copy.deepcopy(document)
    paths = [*places(document)]
    if not paths:
        return dice.choice(values)
    *path, key = dice.choice(paths) if dice.random() < 0.5 else dice.choice([path for path in paths if len(path) <= 2])
    owner = at(document, path)
    match dice.choice(("value", "value", "remove", "other", "near", "name")):
        case "value":
            owner[key] = copy.deepcopy(dice.choice(values))
        case "remove":
            del owner[key]
        case "other":
            owner[key] = copy.deepcopy(at(document, dice.choice(paths)))
        case "near":
            owner[key] = owner[key] + dice.choice((-1, 1)) if isinstance(owner[key], int) else [owner[key]] * dice.randint(1, 4)
        case _:
            value = owner.pop(key)
            owner.insert(0, value) if isinstance(owner, list) else owner.update({dice.choice((*names, f"{key}x")): value})
    return document

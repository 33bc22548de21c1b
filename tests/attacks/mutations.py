"""Random damage to a file, from a seed: bytes flipped, cut, inserted, and values of its JSON moved."""

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 255, 65536, 2**31, 2**32 - 1, 2**63, 10**12, 10**30, 0.5, -2.5, 1e308, 5e-324),
    *("", "x", "the", "<s>", "</s>", "\ud800", "\0", "é", "a" * 5000, "(a+)+$", "[", "../x", "gpt2", "llama", "tfkit", "F16", "BPE"),
    "ByteLevel",
    *([], {}, [[]], [1], [None], ["a", "b"], {"a": 1}, {"type": "Sequence"}, {"type": "Lowercase"}, {"String": "a"}, {"Regex": "("}),
]


def mutate(path: Path, random: random.Random) -> str:
    """Damage a file once or twice; return a description."""
    ways = []
    for _ in range(random.choice((1, 1, 1, 2))):
        if path.suffix == ".json" and random.random() < 0.7:
            ways.append(_mutate_json(path, random))
        elif path.suffix == ".safetensors" and random.random() < 0.6:
            ways.append(_mutate_header(path, random))
        else:
            ways.append(_mutate_bytes(path, random))
    return f"{path.name}: {', '.join(ways)}"


def _mutate_bytes(path: Path, random: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at, length = random.randrange(len(data) + 1), random.choice((1, 2, 8, 100))
    if random.random() < 0.3:
        at = min(at, random.randrange(64))  # where formats describe what follows
    match random.choice(("flip", "cut", "remove", "insert", "overwrite", "repeat", "fill")):
        case "flip" if data:
            at %= len(data)
            data[at] ^= 1 << random.randrange(8)
            way = f"bit flipped in byte {at}"
        case "cut":
            del data[at:]
            way = f"cut at {at}"
        case "remove":
            del data[at : at + length]
            way = f"{length} removed at {at}"
        case "overwrite":
            data[at : at + length] = random.randbytes(length)
            way = f"{length} overwritten at {at}"
        case "repeat":
            data[at:at] = data[at : at + length] * 50
            way = f"{length} repeated at {at}"
        case "fill":
            data[at : at + length] = bytes([random.choice((0, 32, 255))]) * length
            way = f"{length} filled at {at}"
        case _:
            data[at:at] = random.randbytes(length)
            way = f"{length} inserted at {at}"
    path.write_bytes(data)
    return way


def _mutate_json(path: Path, random: random.Random) -> str:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return _mutate_bytes(path, random)
    document, way = _changed(document, random)
    path.write_text(json.dumps(document), encoding="utf-8")
    return way


def _mutate_header(path: Path, random: random.Random) -> str:
    """Change the JSON of a safetensors header, and update its length."""
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
    except ValueError:
        return _mutate_bytes(path, random)
    header, way = _changed(header, random)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"header {way}"


def _changed(document: Any, random: random.Random) -> tuple[Any, str]:
    """Return the document with one value replaced, removed, or moved to another's place."""
    places = list(_places(document, ()))
    if not places:
        return random.choice(VALUES), "all replaced"
    *path, key = random.choice(places) if random.random() < 0.5 else random.choice([place for place in places if len(place) <= 2])
    owner = _at(document, path)
    match random.choice(("value", "value", "remove", "other", "near", "name")):
        case "value":
            owner[key] = copy.deepcopy(random.choice(VALUES))
            way = f"= {str(owner[key])[:20]!r}"
        case "remove":
            del owner[key]
            way = "removed"
        case "other":
            owner[key] = copy.deepcopy(_at(document, random.choice(places)))
            way = "= another value"
        case "near":
            value = owner[key]
            owner[key] = value + random.choice((-1, 1)) if isinstance(value, int) else [value]
            way = f"= {str(owner[key])[:20]!r}"
        case _:
            value = owner.pop(key)
            owner.insert(0, value) if isinstance(owner, list) else owner.update({random.choice(("x", "", str(key) + "x")): value})
            way = "moved"
    return document, f"{'.'.join(map(str, (*path, key)))[:60]} {way}"


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    """Yield the path of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _at(value: Any, path: Any) -> Any:
    for key in path:
        value = value[key]
    return value

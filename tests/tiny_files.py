"""Files of tests: rows of JSON, receipts, tables and configurations, a bit that is flipped, and waiting for a file or another event."""

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write one JSON document a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parse_rows(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def read_rows(path: Path) -> list[Any]:
    return parse_rows(path.read_text(encoding="utf-8"))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON document, the outer ones first."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def at(value: Any, path: Iterable[Any]) -> Any:
    """Return the value at a path."""
    return reduce(getitem, path, value)


def receipt(run: Path | str) -> dict[str, Any]:
    return read_json(Path(run, "run.json"))


def emissions_rows(run: Path) -> list[dict[str, str]]:
    with (run / "emissions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit_config(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    """Change and remove keys of a model folder's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in remove}), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a model folder's model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def read_by(kind: Any, folder: Path) -> Any:
    """Return what a class of transformers reads of a model folder, in which it finds every weight and no other."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def flip(file: Path) -> None:
    """Change one bit in the middle, in place."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 2
    with file.open("r+b") as opened:
        opened.write(data)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until the condition is true, or fail; no event of a test takes so long on a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)

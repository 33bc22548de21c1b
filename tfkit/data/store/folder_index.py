"""index.json of a cache folder: facts about its content, the version of its format, and the size of each file. Written last."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tfkit.data.store.folder_cache import build_and_open
from tfkit.data.store.hashes import HashedFiles, find_damage

INDEX = "index.json"


def indexed_folder(folder: Path, version: int, build: Callable[[Path], None]) -> tuple[dict[str, Any], HashedFiles, bool]:
    """Return index and files of a cache folder, and whether this call built it: with `build`, which ends with `write_index`."""

    def open_folder(path: Path) -> tuple[dict[str, Any], HashedFiles] | None:
        index = read_index(path, version)
        return None if index is None else (index, HashedFiles(path))

    (index, files), built = build_and_open(folder, lambda path: read_index(path, version) is not None, build, open_folder)
    return index, files, built


def is_built(folder: Path, version: int) -> bool:
    """Whether the folder is complete and undamaged, so that `indexed_folder` would not build it."""
    return read_index(folder, version) is not None and find_damage(folder) is None


def write_index(folder: Path, version: int, facts: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Write the index of a folder whose files are closed. `names`: the files, in the order of the index; None: all, sorted."""
    names = sorted(path.name for path in folder.iterdir()) if names is None else names
    files = {name: (folder / name).stat().st_size for name in names}
    (folder / INDEX).write_text(json.dumps({"version": version, **facts, "files": files}, indent=2) + "\n")


def read_index(folder: Path, version: int) -> dict[str, Any] | None:
    """Return the index of a folder if it has this version and all files have their sizes, else None."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
        whole = all((folder / name).stat().st_size == size for name, size in index["files"].items())
        return index if whole and index["version"] == version else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

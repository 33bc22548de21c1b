"""The identity of the model in a folder, whatever the folder's name: for lineage, and to check whether it is still the same one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tfkit.hub.config_json import read_facts
from tfkit.hub.find import ADAPTER
from tfkit.run.manifest import Identity, identity_of, is_settled
from tfkit.run.verified import find_named, verified

_BLOCK = 1 << 20
_known: dict[tuple[tuple[str, Identity], ...], str] = {}  # the hashes of this process, by the names and identities of the files


def content_hash(folder: Path) -> str:
    """Return the SHA-256 of the bytes of config.json (and an adapter's own) and of the weights, in the order of their names.

    Raise ModelError for files that differ from the folder's manifest.
    """
    names = ["config.json", ADAPTER, *sorted(path.name for path in folder.glob("*.safetensors"))]
    paths = [path for name in names if (path := find_named(folder, name)) is not None]
    with verified(folder, weights=True):
        key = tuple((path.name, identity_of(path)) for path in paths)
        if key in _known:
            return _known[key]
        settled = all(is_settled(identity) for _, identity in key)
        found = _content_hash(paths)
    if settled:
        _known[key] = found
    return found


def _content_hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def run_id_of(folder: Path) -> str | None:
    """Return the run that made the model, if tfkit.json has it."""
    found = read_facts(folder).get("run_id")
    return found if isinstance(found, str) else None

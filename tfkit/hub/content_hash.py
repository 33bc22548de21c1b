"""The identity of the model in a folder, whatever the folder's name: for lineage, and to check whether the model is still the same."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tfkit.hub.find import ADAPTER
from tfkit.run.manifest import Identity, identity_of, is_settled
from tfkit.run.tfkit_json import read_tfkit_json
from tfkit.run.verified import find_named, verified

_known: dict[tuple[tuple[str, Identity], ...], str] = {}  # the hashes computed in this process, by the names and identities of the files


def content_hash(folder: Path) -> str:
    """Return the SHA-256 of config.json, an adapter's adapter_config.json, and the safetensors files in the order of their names.

    Raise ModelError for files that differ from the folder's manifest.
    """
    names = ["config.json", ADAPTER, *sorted(path.name for path in folder.glob("*.safetensors"))]
    paths = [path for name in names if (path := find_named(folder, name)) is not None]
    with verified(folder, weights=True):
        key = tuple((path.name, identity_of(path)) for path in paths)
        if key in _known:
            return _known[key]
        settled = all(is_settled(identity) for _, identity in key)
        digest = _hash_files(paths)
    if settled:
        _known[key] = digest
    return digest


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb", buffering=0) as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def run_id_of(folder: Path) -> str | None:
    """Return the id of the run that trained the model; None if tfkit.json does not have it."""
    return read_tfkit_json(folder).run_id

"""Which model a folder holds, whatever it is called: for lineage, and to tell whether it is still the same one."""

import hashlib
from pathlib import Path

from tfkit.hub.config_json import LIMIT
from tfkit.hub.find import ADAPTER
from tfkit.run.model_files import find_file, read_object

_BLOCK = 1 << 20


def content_hash(folder: Path) -> str:
    """SHA-256 of the bytes of config.json (and an adapter's own) and of the weights, in the order of their names."""
    digest = hashlib.sha256()
    described = [path for name in ("config.json", ADAPTER) if (path := folder / name).is_file()]
    for path in (*described, *sorted(folder.glob("*.safetensors"))):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def run_id_of(folder: Path) -> str | None:
    """The run that made it, as tfkit.json says, where there is one."""
    path = find_file(folder, "tfkit.json")
    found = read_object(path, LIMIT).get("run_id") if path is not None else None
    return found if isinstance(found, str) else None

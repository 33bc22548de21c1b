"""Comparison of a model folder with its manifest while its files are read. A folder without a manifest loads unverified.

A file that the manifest does not name is ignored: it is no part of the checkpoint that was saved.

Weights are hashed on one thread while another copies them out of the same pages: the disk is read once, and there is no second copy.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tfkit.errors import ModelError
from tfkit.run.manifest import NAME, Entry, Identity, identity_of, known_sha256, read_manifest, sha256_of
from tfkit.run.model_files import find_file

_TRAINING_STATE = "training_state/"  # read by resuming alone, which verifies it; a folder that was published may be without
_WEIGHTS = ".safetensors"
_verifying: ContextVar[bool] = ContextVar("verifying", default=True)


@contextmanager
def unverified() -> Iterator[None]:
    """Compare no file with a manifest within the block: --no-verify."""
    token = _verifying.set(False)
    try:
        yield
    finally:
        _verifying.reset(token)


@contextmanager
def verified(folder: Path, *, weights: bool) -> Iterator[None]:
    """Raise ModelError unless the files that the block reads have the sizes and hashes of manifest.json; training state is not looked at.

    All sizes, and the hashes of all but the weights, are compared before the block; the hashes of the `weights` while it runs. Damage is
    raised in place of a ModelError of the block, whose cause it is likely to be. A file that changes meanwhile is an error, too.
    """
    entries = _entries(folder)
    paths = {name: _sized(folder, name, entry) for name, entry in entries.items()}
    hashed = _compare(paths, entries, [name for name in entries if not name.endswith(_WEIGHTS)], threading.Event())
    names = [name for name in entries if weights and name.endswith(_WEIGHTS)]
    if not names:
        yield
        return
    stop = threading.Event()
    with ThreadPoolExecutor(1, "hashing") as pool:
        comparison = pool.submit(_compare, paths, entries, names, stop)
        try:
            yield
            hashed |= comparison.result()
        except ModelError:
            comparison.result()
            raise
        finally:
            stop.set()
    for path, identity in hashed.items():
        if identity_of(path) != identity:
            raise ModelError(f"{path}: was changed while it was read; load it again when nothing writes to it")


def find_named(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name`; None if there is none, or the folder has a manifest that does not name it. Raises ModelError."""
    path = find_file(folder, name)
    if path is None or not _verifying.get() or find_file(folder, NAME) is None:
        return path
    return path if name in read_manifest(folder) else None


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError if one of these small files exists and differs from manifest.json."""
    entries = _entries(folder)
    found = {name: path for name in names if name in entries and (path := find_file(folder, name)) is not None}
    _compare(found, entries, found, threading.Event())


def _entries(folder: Path) -> dict[str, Entry]:
    """Return the manifest's entries of the files that a model is read from."""
    if not _verifying.get() or find_file(folder, NAME) is None:
        return {}
    return {name: entry for name, entry in read_manifest(folder).items() if not name.startswith(_TRAINING_STATE)}


def _sized(folder: Path, name: str, entry: Entry) -> Path:
    """Return the path of a file, which has its size. Raises ModelError."""
    path = find_file(folder, name)
    if path is None:
        raise ModelError(f"{folder / name}: missing, but {NAME} names it; copy the checkpoint again")
    size = path.stat().st_size
    if size != entry["size"]:
        raise ModelError(f"{path}: {size:,} bytes, where the checkpoint had {entry['size']:,}; copy it again")
    return path


def _compare(paths: Mapping[str, Path], entries: Mapping[str, Entry], names: Iterable[str], stop: threading.Event) -> dict[Path, Identity]:
    """Return the identity of each file as it was hashed. Raises ModelError if a hash differs; ends early once `stop` is set."""

    def advance(_count: int) -> None:
        if stop.is_set():
            raise InterruptedError

    hashed: dict[Path, Identity] = {}
    for name in names:
        path = paths[name]
        try:
            sha256, hashed[path] = known_sha256(path) or sha256_of(path, advance)
        except InterruptedError:
            break
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); check the disk, or copy the file again") from None
        if sha256 != entries[name]["sha256"]:
            raise ModelError(
                f"{path}: damaged: its SHA-256 is not that of {NAME}. Restore the file, or name another checkpoint; "
                f"`tfkit verify {path.parent}` checks every file, and --no-verify reads them as they are"
            )
    return hashed

"""Verification of a model folder against its manifest.json while the files of the folder are read. A folder without a manifest is loaded
unverified.

`find_named` does not find files that the manifest omits, such as those that were added to the folder later.

Weights are hashed in a thread while they are loaded. The thread and the loader use the same pages of the page cache, so the disk is read
only once, and there is no second copy in memory.
"""

import shlex
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from tfkit.errors import ModelError, argument, path_argument
from tfkit.run.manifest import NAME, Entry, Identity, cached_sha256, identity_of, read_manifest, sha256_of
from tfkit.run.model_files import find_file

# Training state is not compared here: a resume compares all hashes before it reads the state, and a published folder may lack it.
_TRAINING_STATE = "training_state/"
_WEIGHTS = ".safetensors"
_verifying: ContextVar[bool] = ContextVar("verifying", default=True)


@contextmanager
def unverified() -> Iterator[None]:
    """A context in which nothing is verified, for --no-verify."""
    token = _verifying.set(False)
    try:
        yield
    finally:
        _verifying.reset(token)


@contextmanager
def verified(folder: Path, *, weights: bool) -> Iterator[None]:
    """A context that compares the files of a model folder, except training state, with its manifest.json, for code that reads them. Raises
    ModelError for differences. Before the block, all sizes and the hashes of all files but the weights are compared. With `weights`, the
    hashes of the weights are compared while the block runs, and a file that changes meanwhile is an error, too. If the block raises
    ModelError and the weights are damaged, an error about the damage replaces it, since the damage is the likely cause.
    """
    entries = _entries(folder)
    paths = {name: _check_size(folder, name, entry) for name, entry in entries.items()}
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
        try:
            is_same = identity_of(path) == identity
        except OSError:  # as when the run has deleted this checkpoint meanwhile
            is_same = False
        if not is_same:
            raise ModelError(f"{path}: was changed or deleted while it was read; load it again when nothing writes to it")


def find_named(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name`; None if it does not exist or, unless verification is disabled, if a manifest.json omits it.
    Raises ModelError for a link to nothing or out of the folder, for a file that is not regular, and for an invalid manifest.
    """
    path = find_file(folder, name)
    if path is None or not _verifying.get() or find_file(folder, NAME) is None:
        return path
    return path if name in read_manifest(folder) else None


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Unless verification is disabled, hash the files in `names` that exist and are in manifest.json; raise ModelError for another hash."""
    entries = _entries(folder)
    paths = {name: path for name in names if name in entries and (path := find_file(folder, name)) is not None}
    _compare(paths, entries, paths, threading.Event())


def _entries(folder: Path) -> dict[str, Entry]:
    """Return the manifest's entries except those of training state; {} if verification is disabled or there is no manifest."""
    if not _verifying.get() or find_file(folder, NAME) is None:
        return {}
    return {name: entry for name, entry in read_manifest(folder).items() if not name.startswith(_TRAINING_STATE)}


def _check_size(folder: Path, name: str, entry: Entry) -> Path:
    """Return the path of the file `name`. Raises ModelError if it is missing, or has another size than `entry` states."""
    path = find_file(folder, name)
    if path is None:
        raise ModelError(f"{folder / name}: missing, but {NAME} names it; copy the checkpoint again")
    size = path.stat().st_size
    if size != entry["size"]:
        raise ModelError(f"{path}: {size:,} bytes, where the checkpoint had {entry['size']:,}; copy it again")
    return path


def _compare(paths: Mapping[str, Path], entries: Mapping[str, Entry], names: Iterable[str], stop: threading.Event) -> dict[Path, Identity]:
    """Compare the hashes of the files `names` with their entries. Return the identity (inode, size, times) that each hashed file had then;
    return early once `stop` is set. Raises ModelError if a hash differs.
    """

    def advance(_count: int) -> None:
        if stop.is_set():
            raise InterruptedError

    hashed: dict[Path, Identity] = {}
    for name in names:
        path = paths[name]
        try:
            sha256, hashed[path] = cached_sha256(path) or sha256_of(path, advance)
        except InterruptedError:
            break
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror}); check its permissions and its disk, or copy the file again"
            ) from None
        if sha256 != entries[name]["sha256"]:
            raise ModelError(
                f"{path}: damaged: its SHA-256 is not that of {NAME}. Restore the file, or name another checkpoint; `tfkit verify "
                f"{shlex.quote(path_argument(path.parent))}` checks every file, and {argument('verify', False)} reads them as they are"
            )
    return hashed

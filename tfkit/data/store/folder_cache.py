"""Folders of the cache. Each is either complete or absent, and is built once; a folder that is deleted, at any time, is built again.

A process builds a folder under a hidden name beside its final path, and locks it there (flock on the folder itself). The lock ends with the
process, even if the process is killed, so later processes remove a hidden folder without a lock, and leave a locked one to its builder.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tfkit.data.store.hashes import HASHES, HashedFiles, find_damage, write_hashes
from tfkit.durable import DISK_FULL, rename, sync_tree, user_folder
from tfkit.errors import MachineError

ATTEMPTS = 5  # largest number of attempts to build a folder that other processes delete meanwhile
INDEX = "index.json"  # facts about a folder's content, the version of its format, and the size of each file; written after these files
_Opened = TypeVar("_Opened")


def cache_folder() -> Path:
    """Return TFKIT_CACHE, else XDG_CACHE_HOME/tfkit, else `tfkit` in the platform's cache folder; create it if it does not exist.

    Raises MachineError if TFKIT_CACHE is not writable. If TFKIT_CACHE is not set and the folder used instead is not writable, warn with a
    RuntimeWarning, and return a folder that the user owns in the system's temporary folder.
    """
    chosen = os.environ.get("TFKIT_CACHE")
    if chosen:
        folder = Path(os.path.expanduser(chosen)).absolute()
        if not _writable(folder):
            raise MachineError(f"TFKIT_CACHE={chosen}: this folder cannot be made or written; choose another, or correct its permissions")
        return folder
    caches = user_folder("XDG_CACHE_HOME", "Library/Caches" if sys.platform == "darwin" else ".cache")
    usual = caches / "tfkit" if caches is not None else None
    if usual is not None and _writable(usual):
        return usual
    substitute = _temporary_folder()
    warnings.warn(
        f"{usual or 'the home folder'} cannot be written, so the cache is {substitute} and may not last; set TFKIT_CACHE to keep it",
        RuntimeWarning,
        stacklevel=2,
    )
    return substitute


class BuildingTime:
    """The total seconds that this process has spent on building cache folders, which later commands reuse."""

    seconds = 0.0


def cache_size() -> int:
    """Return the total bytes of the files in the cache folder."""
    total = 0
    for folder, _, names in os.walk(cache_folder()):
        for name in names:
            with contextlib.suppress(OSError):  # the file was deleted meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def build_and_open(
    folder: Path, is_whole: Callable[[Path], bool], build: Callable[[Path], None], open_folder: Callable[[Path], _Opened | None]
) -> tuple[_Opened, bool]:
    """Return the result of `open_folder` for a folder that `build_once` provides, and whether this call built the folder.

    If the folder is deleted before it is opened (`open_folder` returns None, or raises FileNotFoundError), it is built again; after
    `ATTEMPTS` such deletions, MachineError is raised.
    """
    for _ in range(ATTEMPTS):
        try:
            built = build_once(folder, is_whole, build)
            if (opened := open_folder(folder)) is not None:
                return opened, built
        except (FileNotFoundError, FileExistsError) as error:  # mkdir raises FileExistsError if the folder is deleted meanwhile
            if error.filename is None or not Path(error.filename).is_relative_to(folder.parent):
                raise
    raise _deleted(folder)


@contextlib.contextmanager
def reading_cache(folder: Path) -> Iterator[None]:
    """Raise MachineError in place of FileNotFoundError if a file of a cache folder was deleted after the folder was built or checked."""
    try:
        yield
    except FileNotFoundError as error:
        raise _deleted(folder) from error


def _deleted(folder: Path) -> MachineError:
    return MachineError(
        f"{folder}: this part of the cache was deleted while it was used; start or resume the run again, "
        "and delete the cache only between runs, or set TFKIT_CACHE to a folder that nothing else deletes"
    )


def build_once(folder: Path, is_whole: Callable[[Path], bool], build: Callable[[Path], None]) -> bool:
    """Ensure that `folder` exists, complete (`is_whole`) and undamaged (hashes.py); return whether this call built the folder.

    `build` fills an empty temporary folder, which is then synced and renamed; if `build` raises, the temporary folder is removed. If two
    processes build at the same time, both use the folder of the faster one. An incomplete folder is replaced silently, a damaged one with a
    RuntimeWarning; a process that has mapped the old files keeps them. Raises MachineError if the disk is full or not writable.
    """
    if is_whole(folder):
        damaged = find_damage(folder)
        if damaged is None:
            return False
        if damaged != HASHES:  # a file itself, not the hashes, which caches of version 0.1.0 do not have
            warnings.warn(f"{folder / damaged}: damaged, so this part of the cache is built again", RuntimeWarning, stacklevel=2)
    began = time.perf_counter()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder.parent)
        with _temporary_sibling(folder) as temporary:
            build(temporary)
            write_hashes(temporary)
            sync_tree(temporary)
            return _put_in_place(temporary, folder, is_whole)
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EROFS, errno.EACCES, errno.EPERM):
            raise MachineError(
                f"{folder.parent}: the cache cannot be written ({error.strerror}); make room there, or set TFKIT_CACHE to another folder"
            ) from error
        raise
    finally:
        BuildingTime.seconds += time.perf_counter() - began


def _put_in_place(temporary: Path, folder: Path, is_whole: Callable[[Path], bool]) -> bool:
    while True:
        try:
            rename(temporary, folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if is_whole(folder) and find_damage(folder) is None:
                return False  # another process was faster
            with contextlib.suppress(FileNotFoundError):  # another process has already moved the folder away
                os.rename(folder, _sibling_name(folder))  # nobody locks the folder under this name, so _remove_leftovers deletes it
            continue
        _remove_leftovers(folder.parent)
        return True


@contextlib.contextmanager
def _temporary_sibling(folder: Path) -> Iterator[Path]:
    """Create an empty, locked, hidden folder beside `folder`. The end of the context removes the folder, unless it was renamed."""
    while True:
        temporary = _sibling_name(folder)
        temporary.mkdir()
        try:
            descriptor = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # another process took the folder for a leftover, since it was not locked yet
            continue
        with contextlib.suppress(OSError):  # some network file systems have no locks; then leftovers stay
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.is_dir():
            break
        os.close(descriptor)  # another process removed the folder after it was opened and before it was locked
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    for leftover in parent.glob(".building-*"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
        except OSError:
            pass  # locked, so the process that builds the folder is alive
        finally:
            os.close(descriptor)


def _sibling_name(folder: Path) -> Path:
    return folder.with_name(f".building-{folder.name}-{uuid.uuid4().hex[:12]}")


def _temporary_folder() -> Path:
    """Return a folder of the user in the system's temporary folder: tfkit-UID, or a new one if that is unusable."""
    folder = Path(tempfile.gettempdir()) / f"tfkit-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if status.st_uid != os.getuid() or folder.is_symlink() or not _writable(folder):
        return Path(tempfile.mkdtemp(prefix="tfkit-"))
    return folder


def _writable(folder: Path) -> bool:
    for _ in range(ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST) or folder.exists():
                return False
        if os.access(folder, os.W_OK | os.X_OK):
            return True
        if folder.exists():
            break  # the folder is read-only; otherwise, it was just deleted, and is made again
    return False


def indexed_folder(folder: Path, version: int, build: Callable[[Path], None]) -> tuple[dict[str, Any], HashedFiles, bool]:
    """Return the index and the files of a cache folder, and whether this call built the folder. `build` must end with `write_index`."""

    def open_folder(path: Path) -> tuple[dict[str, Any], HashedFiles] | None:
        index = read_index(path, version)
        return None if index is None else (index, HashedFiles(path))

    (index, files), built = build_and_open(folder, lambda path: read_index(path, version) is not None, build, open_folder)
    return index, files, built


def is_built(folder: Path, version: int) -> bool:
    """Whether the folder is complete and undamaged, so that `indexed_folder` would not build it again."""
    return read_index(folder, version) is not None and find_damage(folder) is None


def write_index(folder: Path, version: int, facts: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Write the index of a folder whose files are closed. `names`: the files that the index lists; None: all, sorted."""
    names = sorted(path.name for path in folder.iterdir()) if names is None else names
    files = {name: (folder / name).stat().st_size for name in names}
    (folder / INDEX).write_text(json.dumps({"version": version, **facts, "files": files}, indent=2) + "\n")


def read_index(folder: Path, version: int) -> dict[str, Any] | None:
    """Return the index of a folder; None if it is missing or unreadable, has another version, or states a wrong size for a file."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
        whole = all((folder / name).stat().st_size == size for name, size in index["files"].items())
        return index if whole and index["version"] == version else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

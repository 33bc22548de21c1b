"""manifest.json: the size and SHA-256 of every file of a checkpoint. It is written last, so a checkpoint that matches its manifest is
complete.

    {"schema_version": 1, "files": {"model.safetensors": {"size": 497772344, "sha256": "9b1c..."}, "training_state/state.json": {...}}}

Readers check every field, so that they also detect a flipped bit in the manifest. Not listed are files that are added later, and
README.md, which users may edit.
"""

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypedDict

from tfkit.errors import ModelError, OtherVersionError
from tfkit.run import strict_json
from tfkit.run.model_files import MIB, check_version, find_file, read_text

NAME = "manifest.json"
SCHEMA_VERSION = 1
_LIMIT = 16 * MIB
_NOT_COVERED = frozenset({NAME, "README.md"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20  # bytes per read
_SETTLED_NS = 2_000_000_000  # nanoseconds; no file system's timestamps have a coarser resolution

Identity = tuple[int, ...]
"""The device, inode, size, mtime and ctime of a file, by which a change of its content is noticed without reading it."""

_cache: dict[Identity, str] = {}  # the SHA-256 of files that were settled (`is_settled`) when this process hashed them


class Entry(TypedDict):
    """The entry of a file in the manifest: its size in bytes, and its SHA-256 in lower-case hex."""

    size: int
    sha256: str


def write_manifest(folder: Path) -> None:
    """Write manifest.json for the files in `folder`; the caller flushes it. Raises OSError, and ModelError for a link, device or pipe."""
    entries: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*")):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise ModelError(f"{path}: a checkpoint holds files and folders only, no links or devices")
        if stat.S_ISREG(status.st_mode) and name not in _NOT_COVERED:
            entries[name] = {"size": status.st_size, "sha256": sha256_of(path)[0]}
    (folder / NAME).write_text(manifest_text(entries), encoding="utf-8", newline="\n")


def manifest_text(entries: dict[str, Entry]) -> str:
    """Return the text of manifest.json for `entries`, a dict by file name."""
    return strict_json.dumps({"schema_version": SCHEMA_VERSION, "files": entries}, indent=1) + "\n"


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Return the manifest's entries by file name. Raises ModelError if it is missing, invalid, or names a file outside `folder`."""
    path = folder / NAME
    try:
        if find_file(folder, NAME) is None:
            raise ModelError(f"{path}: missing, so this is not a complete checkpoint of tfkit")
        document = strict_json.loads(read_text(path, _LIMIT))
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: unreadable ({error})") from error
    if isinstance(document, dict):
        check_version(document, path, SCHEMA_VERSION)
    if not isinstance(document, dict) or document.keys() != {"schema_version", "files"} or not isinstance(document["files"], dict):
        raise ModelError(f"{path}: not a manifest: it must have schema_version and files, and no other field")
    for name, entry in document["files"].items():
        if not _stays_inside(name):
            raise ModelError(f"{path}: the entry {name!r} leaves the checkpoint's folder; refused as unsafe")
        if not _is_entry(entry):
            raise ModelError(f"{path}: the entry of {name!r} is not a size and a SHA-256")
    files: dict[str, Entry] = document["files"]
    return files


def refuse_later_version(folder: Path) -> None:
    """Raise OtherVersionError if a later version of tfkit wrote the manifest: such a checkpoint must not be treated as damaged."""
    try:
        read_manifest(folder)
    except OtherVersionError:
        raise
    except ModelError:
        return


def recorded_bytes(folder: Path) -> int:
    """Return the total size of the files in the manifest; 0 without a valid manifest."""
    try:
        return sum(entry["size"] for entry in read_manifest(folder).values())
    except ModelError:
        return 0


def _ignore(count: int) -> None:
    """Report no progress."""


def verify(folder: Path, hashes: bool = True, advance: Callable[[int], object] = _ignore) -> list[str]:
    """Return the problems of a checkpoint: a sentence for each file that differs from the manifest, or one about an invalid manifest.

    Without `hashes`, only sizes are compared. `advance` is called with the number of bytes hashed since its last call.
    """
    try:
        entries = read_manifest(folder)
    except ModelError as error:
        return [str(error)]
    problems = (_problem(folder, folder / name, entry, hashes, advance) for name, entry in sorted(entries.items()))
    return [problem for problem in problems if problem]


def extra_files(folder: Path) -> list[str]:
    """Return a checkpoint's files that its manifest omits, except manifest.json and README.md. Raises ModelError for a bad manifest."""
    paths = (Path(parent, name) for parent, _, files in os.walk(folder) for name in files)  # not is_file(), which needs search permission
    return sorted({path.relative_to(folder).as_posix() for path in paths} - read_manifest(folder).keys() - _NOT_COVERED)


def is_complete(folder: Path) -> bool:
    """Return whether `folder` has a valid manifest, and every file in it exists with the size that the manifest states."""
    return not verify(folder, hashes=False)


def identity_of(path: Path) -> Identity:
    """Return the identity of the file at a path. Raises OSError."""
    return _identity(path.stat())


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(identity: Identity) -> bool:
    """Return whether the file's last change is so long ago that any later change will give the file a different identity."""
    return time.time_ns() - identity[-1] > _SETTLED_NS


def cached_sha256(path: Path) -> tuple[str, Identity] | None:
    """Return the SHA-256 and the identity of a file; None unless this process has hashed it in its present state. Raises OSError."""
    identity = identity_of(path)
    return (_cache[identity], identity) if identity in _cache else None


def sha256_of(path: Path, advance: Callable[[int], object] = _ignore) -> tuple[str, Identity]:
    """Return the SHA-256 of a file, and the identity that the file had before it was read. Raises OSError."""
    digest, block = hashlib.sha256(), bytearray(_BLOCK)
    view = memoryview(block)
    with open(path, "rb", buffering=0) as file:
        identity = _identity(os.fstat(file.fileno()))
        settled = is_settled(identity)
        while count := file.readinto(block):
            digest.update(view[:count])
            advance(count)
    sha256 = digest.hexdigest()
    if settled:
        _cache[identity] = sha256
    return sha256, identity


def _problem(folder: Path, path: Path, entry: Entry, hashes: bool, advance: Callable[[int], object]) -> str | None:
    """Return as a sentence how the file `path` differs from its entry in the manifest; None if it does not differ."""
    if any(part.is_symlink() for part in (path, *path.parents[: len(path.relative_to(folder).parts) - 1])):
        return f"{path}: a link, where the checkpoint had a file"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path}: not a file"
        if status.st_size != entry["size"]:
            return f"{path}: {status.st_size:,} bytes, where the checkpoint had {entry['size']:,}"
        if hashes and sha256_of(path, advance)[0] != entry["sha256"]:
            return f"{path}: damaged: its SHA-256 is not the manifest's"
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: unreadable ({error.strerror})"
    return None


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and name == "/".join(parts) and ".." not in parts and not any(mark in name for mark in ("\\", ":", "\0"))


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        return False
    size, sha256 = entry["size"], entry["sha256"]
    return type(size) is int and size >= 0 and isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None

"""manifest.json: the size and SHA-256 of every file of a checkpoint, written last. Where it is and agrees, the checkpoint is whole.

    {"schema_version": 1, "files": {"model.safetensors": {"size": 497772344, "sha256": "9b1c..."}, "training_state/state.json": {...}}}

The form is strict, with no field that nothing checks, so that any change of a bit is found. README.md, which may be edited, is left out,
and so are files that come later.
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
_BLOCK = 1 << 20
_SETTLED = 2_000_000_000  # ns, more than the resolution of any file system's times

Identity = tuple[int, ...]
"""A file and its content, as the file system identifies them without reading: device, inode, size, times of change."""

_known: dict[Identity, str] = {}  # the hashes of files that this process has read


class Entry(TypedDict):
    """The manifest's entry of a file: bytes, and lower-case hex."""

    size: int
    sha256: str


def write_manifest(folder: Path) -> None:
    """Write the manifest of what is in `folder`, without syncing it. Raises ModelError for anything but files and folders, and OSError."""
    entries: dict[str, Entry] = {}
    for path in regular_files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in _NOT_COVERED:
            entries[name] = {"size": path.stat().st_size, "sha256": sha256_of(path)[0]}
    (folder / NAME).write_text(manifest_text(entries), encoding="utf-8", newline="\n")


def manifest_text(entries: dict[str, Entry]) -> str:
    """Return the text of manifest.json with these entries by name."""
    return strict_json.dumps({"schema_version": SCHEMA_VERSION, "files": entries}, indent=1) + "\n"


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Return the entries by name. Raises ModelError if the manifest is missing, unreadable, or names something outside the folder."""
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
        raise ModelError(f"{path}: not a manifest: expected exactly schema_version and files")
    for name, entry in document["files"].items():
        if not _stays_inside(name):
            raise ModelError(f"{path}: the entry {name!r} leaves the checkpoint's folder; refused as unsafe")
        if not _is_entry(entry):
            raise ModelError(f"{path}: the entry of {name!r} is not a size and a SHA-256")
    files: dict[str, Entry] = document["files"]
    return files


def refuse_later_version(folder: Path) -> None:
    """Raise OtherVersionError for the manifest of a later version of tfkit: the checkpoint is not damaged, and no older one is taken."""
    try:
        read_manifest(folder)
    except OtherVersionError:
        raise
    except ModelError:
        return


def recorded_bytes(folder: Path) -> int:
    """Return the size of all files together, as the manifest has it; 0 without a valid one."""
    try:
        return sum(entry["size"] for entry in read_manifest(folder).values())
    except ModelError:
        return 0


def _ignore(count: int) -> None:
    """Report no progress."""


def verify(folder: Path, hashes: bool = True, advance: Callable[[int], object] = _ignore) -> list[str]:
    """Return the problems of a checkpoint, one sentence a file, each naming it; empty if there are none.

    Without `hashes` only sizes are compared. `advance` is called with each number of bytes hashed.
    """
    try:
        entries = read_manifest(folder)
    except ModelError as error:
        return [str(error)]
    problems = (_problem(folder, folder / name, entry, hashes, advance) for name, entry in sorted(entries.items()))
    return [problem for problem in problems if problem]


def extra_files(folder: Path) -> list[str]:
    """Return the files of a checkpoint that its manifest does not name, the card aside. Raises ModelError as `read_manifest` does."""
    known = read_manifest(folder).keys() | _NOT_COVERED
    places = (Path(place, name) for place, folders, files in os.walk(folder) for name in files)
    return sorted(name for path in places if (name := path.relative_to(folder).as_posix()) not in known)


def is_complete(folder: Path) -> bool:
    """Return whether every file that the manifest names exists with its size."""
    return not verify(folder, hashes=False)


def regular_files(folder: Path) -> list[Path]:
    """Return all files below `folder`, sorted. Raises ModelError for a link, device or pipe: a checkpoint holds its own bytes."""
    found = []
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise ModelError(f"{path}: a checkpoint holds files and folders only, no links or devices")
    return sorted(found)


def identity_of(path: Path) -> Identity:
    """Return the identity of the file at a path. Raises OSError."""
    return _identity(path.stat())


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(identity: Identity) -> bool:
    """Return whether the file changed so long ago that any later change gives it another identity."""
    return time.time_ns() - identity[-1] > _SETTLED


def known_sha256(path: Path) -> tuple[str, Identity] | None:
    """Return the hash of a file that this process has read before and that has not changed since; None: unknown. Raises OSError."""
    identity = identity_of(path)
    return (_known[identity], identity) if identity in _known else None


def sha256_of(path: Path, advance: Callable[[int], object] = _ignore) -> tuple[str, Identity]:
    """Read a file, and return its hash and the identity that it had before. Raises OSError."""
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
        _known[identity] = sha256
    return sha256, identity


def _problem(folder: Path, path: Path, entry: Entry, hashes: bool, advance: Callable[[int], object]) -> str | None:
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

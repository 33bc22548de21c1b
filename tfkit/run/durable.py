"""Writing that a kill, a full disk or a power cut cannot tear: temporary sibling, fsync, rename, fsync of the folder.

The reasons, one by one: Pillai et al. 2014, "All File Systems Are Not Created Equal" (OSDI).
"""

import contextlib
import errno
import os
import re
import secrets
import sys
from pathlib import Path

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


def temporary_sibling(path: Path, kind: str = "tmp") -> Path:
    """A hidden name beside `path` that no other process uses: .NAME.KIND-PID-RANDOM."""
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def write_atomically(path: Path, text: str) -> None:
    """Put `text` (UTF-8) under `path`, whole or not at all; a link there is replaced, not followed. Raises OSError."""
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk. Raises OSError, also for an error of an earlier write."""
    descriptor = os.open(path, os.O_RDWR | NO_FOLLOW)  # Windows flushes only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk: without it, a rename may be lost with the power."""
    if sys.platform == "win32":  # cannot open a folder; NTFS journals renames
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # some network file systems sync folders on their own
            raise
    finally:
        os.close(descriptor)


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, the quota or the file size limit is used up."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_FULL
    found = re.search(r"\bos error (\d+)\b", str(error))  # how the Rust libraries (safetensors, tokenizers) report it
    return found is not None and int(found.group(1)) in DISK_FULL

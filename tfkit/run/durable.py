"""Writing that a kill, a full disk or a power cut cannot tear: temporary sibling, fsync, rename, fsync of the folder.

The reasons, one by one: Pillai et al. 2014, "All File Systems Are Not Created Equal" (OSDI).
"""

import contextlib
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PASSING = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY})  # a network disk in trouble
PAUSES = (0.1, 0.4, 1.5)  # seconds between the tries
_T = TypeVar("_T")
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


def temporary_sibling(path: Path, kind: str = "tmp") -> Path:
    """A hidden name beside `path` that no other process uses: .NAME.KIND-PID-RANDOM."""
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def with_retries(work: Callable[[], _T]) -> _T:
    """What `work` returns, called up to four times in two seconds while it raises an error of the disk that may pass.

    `work` must write everything anew: after a failed fsync the kernel may have dropped what was not written, and a second fsync of the
    same file says that all is well (Rebello et al. 2020, "Can Applications Recover from fsync Failures?", USENIX ATC).
    """
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(pause)
    return work()


def write_atomically(path: Path, text: str) -> None:
    """Put `text` (UTF-8) under `path`, whole or not at all; a link there is replaced, not followed. Raises OSError after a few tries."""
    with_retries(lambda: write_once(path, text))


def write_once(path: Path, text: str) -> None:
    """As `write_atomically`, with one try: for what is tried again as part of a whole."""
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
    return _error_number(error) in DISK_FULL


def may_pass(error: BaseException) -> bool:
    """Whether `error` is one of the disk that another try may not meet."""
    return _error_number(error) in PASSING


def comes_from_the_disk(error: BaseException) -> bool:
    """Whether the operating system refused something, be it in the words of a library."""
    return isinstance(error, OSError) or _error_number(error) is not None


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\bos error (\d+)\b", str(error))  # how the Rust libraries (safetensors, tokenizers) report it
    return int(found[1]) if found else None

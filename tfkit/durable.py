"""Write files and folders that a kill, a full disk or a power cut cannot tear: temporary sibling, fsync, rename, fsync of the folder.

The reason for each step: Pillai et al. 2014, "All File Systems Are Not Created Equal" (OSDI).
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY})  # errors of network disks
PAUSES = (0.1, 0.4, 1.5)  # seconds between attempts
_T = TypeVar("_T")
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


def user_folder(variable: str, in_home: str) -> Path | None:
    """Return the user's folder: the value of an XDG variable, or else `in_home` in the home folder; None without a home folder."""
    xdg = os.environ.get(variable)
    if xdg and os.path.isabs(xdg):  # the XDG specification says to ignore relative paths
        return Path(xdg)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / in_home if home.is_dir() else None  # tfkit does not create home folders


def temporary_sibling(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden name beside `path` that no other process uses: .NAME.KIND-PID-RANDOM."""
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def with_retries(
    work: Callable[[], _T], should_retry: Callable[[BaseException], bool] | None = None, pauses: Sequence[float] = PAUSES
) -> _T:
    """Return the result of `work`, retried after each pause while `should_retry` accepts its error.

    If `should_retry` is None, `work` is retried after a transient error of the disk.

    `work` must write everything again: after a failed fsync the kernel may have dropped unwritten data, and a second fsync of the same
    file succeeds (Rebello et al. 2020, "Can Applications Recover from fsync Failures?", USENIX ATC).
    """
    for pause in pauses:
        try:
            return work()
        except Exception as error:
            if not (should_retry or is_transient)(error):
                raise
        time.sleep(pause)
    return work()


def write_atomically(path: Path, text: str | Callable[[], Iterable[str]]) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all; a link is replaced, not followed. Raises OSError after the last attempt.

    For a text that is too long for the memory, `text` is a function that returns its parts; it is called in each attempt.
    """
    with_retries(lambda: write_once(path, text))


def write_once(path: Path, text: str | Callable[[], Iterable[str]]) -> None:
    """Write a text as `write_atomically` does, but without trying again after an error. Raises OSError."""
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def is_replaceable(path: Path) -> bool:
    """Return whether a new file may replace the path: not a device, a pipe or a link, which are written directly."""
    return not path.is_symlink() and (path.is_file() or not path.exists())


def write_folder(final: Path, fill: Callable[[Path], object], take_name: Callable[[Path, Path], object] | None = None) -> None:
    """Create the folder `final` with the content that `fill` writes into an empty temporary folder, whole or not at all.

    Once the content is on disk, `take_name(temporary, final)` renames the folder; if it is None, `rename` does, with an OSError for a name
    that is taken.
    Errors of `fill` and `take_name` are passed on after the temporary folder is removed.
    """
    temporary = temporary_sibling(final)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        sync_tree(temporary)
        (take_name or rename)(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def rename(path: Path, name: Path) -> None:
    """Rename a file or folder, and flush the new name to disk."""
    path.rename(name)
    sync_folder(name.parent)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk. Raises OSError."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Flush a file to disk. Raises OSError, also for an error of an earlier write."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk: otherwise a power cut may undo a rename. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # some network file systems sync folders on their own
            raise
    finally:
        os.close(descriptor)


def disk_is_full(error: BaseException) -> bool:
    """Return whether `error` means that the disk, the quota or the file size limit is exhausted."""
    return _error_number(error) in DISK_FULL


def is_transient(error: BaseException) -> bool:
    """Return whether `error` is a disk error that may not recur."""
    return _error_number(error) in TRANSIENT


def is_os_error(error: BaseException) -> bool:
    """Return whether `error` is an error of the operating system: an OSError, or one that a library's message quotes."""
    return isinstance(error, OSError) or _error_number(error) is not None


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\bos error (\d+)\b", str(error))  # how the Rust libraries (safetensors, tokenizers) report it
    return int(match[1]) if match else None

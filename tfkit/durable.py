"""Write files and folders so that no path has incomplete content, even after a killed process, a full disk or a power cut.

The content is written under a temporary name beside the path, flushed to disk (fsync) and renamed; then the folder is flushed. Pillai et
al. 2014, "All File Systems Are Not Created Equal" (OSDI), explain why each step is needed.
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
TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY})  # errors that may not recur
PAUSES = (0.1, 0.4, 1.5)  # seconds between attempts
_T = TypeVar("_T")
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})  # errors of file systems on which a folder cannot be flushed


def user_folder(variable: str, in_home: str) -> Path | None:
    """Return the path in the XDG environment variable `variable` if it is absolute, else ~/`in_home`; None if no home folder exists."""
    xdg = os.environ.get(variable)
    if xdg and os.path.isabs(xdg):  # the XDG specification says to ignore relative paths
        return Path(xdg)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / in_home if home.is_dir() else None  # tfkit does not create home folders


def temporary_sibling(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden path beside `path`, .NAME.KIND-PID-RANDOM, which no other process uses."""
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def with_retries(
    work: Callable[[], _T], should_retry: Callable[[BaseException], bool] | None = None, pauses: Sequence[float] | None = None
) -> _T:
    """Call `work` and return its result. After an error for which `should_retry` is true, call it again, at most once per pause.

    If `should_retry` is None, `work` is called again after a transient error of the disk; `pauses` None: PAUSES. In each call, `work` must
    write everything again, because after a failed fsync the kernel may have dropped unwritten data, while a second fsync of the same file
    succeeds (Rebello et al. 2020, "Can Applications Recover from fsync Failures?", USENIX ATC).
    """
    for pause in PAUSES if pauses is None else pauses:
        try:
            return work()
        except Exception as error:
            if not (should_retry or is_transient)(error):
                raise
        time.sleep(pause)
    return work()


def write_atomically(path: Path, text: str | Callable[[], Iterable[str]]) -> None:
    """Write `text` as UTF-8 to `path`, completely or not at all. A symbolic link at `path` is replaced, not followed. Raises OSError; a
    transient error is raised only if the last retry has failed, too.

    For a text that is too long for the memory, `text` is a function that returns the parts of the text; each attempt calls it again.
    """
    with_retries(lambda: write_once(path, text))


def write_once(path: Path, text: str | Callable[[], Iterable[str]]) -> None:
    """Write a text as `write_atomically` does, but without retries. Raises OSError."""
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
    """Whether a new file may replace what is at `path`. A device, a pipe or a link must be opened and written to instead."""
    return not path.is_symlink() and (path.is_file() or not path.exists())


def write_folder(final: Path, fill: Callable[[Path], object], take_name: Callable[[Path, Path], object] | None = None) -> None:
    """Create the folder `final`, completely or not at all, with the content that `fill` writes into an empty temporary folder.

    Once the content is on disk, `take_name(temporary, final)` renames the folder. If `take_name` is None, `rename` is called, which raises
    OSError if `final` exists and is not empty. After an error, the temporary folder is removed, and the error is raised again.
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
    """Flush a folder and all files and folders in it to disk. Raises OSError."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Flush a file to disk. Raises OSError, also if an earlier write to the file has failed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to disk, because otherwise a power cut may undo a rename. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # the others are ignored: network file systems raise them, and flush folders on their own
            raise
    finally:
        os.close(descriptor)


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` means that the disk is full, or that a disk quota or the maximum size of a file is reached."""
    return _error_number(error) in DISK_FULL


def is_transient(error: BaseException) -> bool:
    """Whether `error` is a disk error that may not recur if the operation is tried again."""
    return _error_number(error) in TRANSIENT


def is_os_error(error: BaseException) -> bool:
    """Whether `error` is an OSError, or a library's error whose message has an error number of the operating system."""
    return isinstance(error, OSError) or _error_number(error) is not None


def _error_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\bos error (\d+)\b", str(error))  # in the messages of the Rust libraries safetensors and tokenizers
    return int(match[1]) if match else None

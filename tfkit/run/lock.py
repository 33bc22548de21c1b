"""The exclusive lock of a run folder. It names the process that owns it, and is released when that process exits.

The package filelock is not used, because it does not name the owner, fails on file systems without locks (ENOLCK), and opens a lock for
writing even to test it, which fails in another user's folder.
"""

import errno
import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from tfkit.errors import MachineError, argument
from tfkit.run import strict_json

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})


class FolderLock:
    """The file `lock` of a run folder, locked with flock. Its content is the owner as JSON (pid, host, started_utc), or nothing after
    `release`. The kernel releases the lock of a killed process, so no lock gets stale. On a file system without flock (some NFS), the JSON
    decides: a lock whose process ran on this machine and no longer exists is taken over; the lock of a process on another machine is not.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None
        self._owner = b""  # the content that this process wrote to the file
        self._folder: tuple[int, int] | None = None

    def acquire(self) -> None:
        """Take the lock. Raises MachineError, which names the owner, if another process has it, OSError if the file cannot be written."""
        assert self._descriptor is None
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            locked = _try_lock(descriptor)
            owner = _read_owner(descriptor)
            if locked is None:
                locked = not _may_be_alive(owner)
            if not locked:
                who = "process {pid} on {host}, started {started_utc}".format_map(owner) if owner else "another process"
                raise MachineError(
                    f"{self.path.parent}: this run folder is in use by {who}. Wait for it or stop it, or give another folder with "
                    f"{argument('run')}. If that process no longer exists, delete {self.path}"
                )
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            started = datetime.now(UTC).isoformat(timespec="seconds")
            us = {"pid": os.getpid(), "host": socket.gethostname(), "started_utc": started}
            self._owner = (strict_json.dumps(us) + "\n").encode()
            os.write(descriptor, self._owner)
            self._folder = _identity(self.path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    @property
    def is_held(self) -> bool:
        """Whether this process still owns the folder; False if the folder was deleted or moved, even if another run has taken its place."""
        if self._descriptor is None:
            return False
        try:
            return self.path.read_bytes() == self._owner
        except FileNotFoundError:  # the lock file was deleted, but the folder may be the same
            return self._folder == _identity(self.path.parent)
        except OSError:
            return True  # an error of the disk, which does not change the owner

    def release(self) -> None:
        """Release the lock. The empty file is kept, since deleting it could delete the lock of the next owner."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a process has the lock; False if `path` cannot be read. If the lock is free, this function takes it for a moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        locked = _try_lock(descriptor)
        return not locked if locked is not None else _may_be_alive(_read_owner(descriptor))
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return the device and inode of a folder, which differ from those of a later folder at the same path; None if there is no folder."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_owner(descriptor: int) -> dict[str, object]:
    """Return the owner that the lock file names; {} if it names none."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        owner = strict_json.loads(os.read(descriptor, 4096))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and owner.keys() >= {"pid", "host", "started_utc"} else {}


def _may_be_alive(owner: dict[str, object]) -> bool:
    """Return whether the owner's process may exist: False without an owner, True for a process on another machine, which is not checked."""
    if not owner:
        return False
    pid = owner["pid"]
    if owner["host"] != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return True
    if pid == os.getpid():
        return False  # the owner was an earlier process with the same pid, before the machine or container was restarted
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _try_lock(descriptor: int) -> bool | None:
    """Try to take the lock. Return True if it was taken, False if another process has it, None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True

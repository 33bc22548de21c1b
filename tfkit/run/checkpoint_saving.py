"""Saving of a checkpoint to a folder with a temporary name, which is synced and then renamed, so a kill loses no older checkpoint
(checkpoints.py).
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tfkit.durable import disk_is_full, is_os_error, rename, temporary_sibling, with_retries, write_folder
from tfkit.errors import MachineError, TfkitError, argument
from tfkit.run.checkpoints import checkpoint_folder, clear_leftovers, newest_checkpoint
from tfkit.run.manifest import recorded_bytes, write_manifest


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], make_room: Callable[[], object] | None = None) -> Path:
    """Save a checkpoint as `root`/step-..., replacing one of the same step, and return its path. `write` fills an empty folder.

    Only the owner of the run's lock may call this function. After a transient disk error, the save is tried again. `make_room` deletes
    checkpoints that are not needed (None: none can be deleted). The function is called if the disk has less free space than the last
    checkpoint takes, and also if the disk is full during the save, which is then tried once more. Raises MachineError for a disk error, and
    whatever `write` raises; in both cases the unfinished checkpoint is removed, and the older ones are unchanged.
    """
    try:
        clear_leftovers(root)
        last = newest_checkpoint(root)
        if make_room and last is not None and shutil.disk_usage(root).free < recorded_bytes(last):
            make_room()
        try:
            return with_retries(lambda: _save(root, step, write))
        except Exception as error:
            if make_room is None or not disk_is_full(error):
                raise
        make_room()
        return with_retries(lambda: _save(root, step, write))
    except TfkitError:
        raise
    except Exception as error:
        if is_os_error(error):
            raise _cannot_save(root, step, error) from error
        raise


def _save(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    def fill(folder: Path) -> None:
        write(folder)
        write_manifest(folder)

    final = checkpoint_folder(root, step)
    write_folder(final, fill, _rename_over)
    return final


def _rename_over(temporary: Path, final: Path) -> None:
    """Rename `temporary` to `final`. A kill leaves the old checkpoint either in place, or as `.old`, which clear_leftovers restores."""
    old = temporary_sibling(final, "old") if os.path.lexists(final) else None
    if old:
        final.rename(old)
    try:
        rename(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            if final.exists():  # renamed, but not synced, so the rename may not survive a power cut
                final.rename(temporary)
            if old:
                old.rename(final)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)


def _cannot_save(root: Path, step: int, error: Exception) -> MachineError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    with contextlib.suppress(OSError):
        reason = f"{reason}; {shutil.disk_usage(root).free / 1e9:.3g} GB free"
    return MachineError(
        f"{checkpoint_folder(root, step)}: cannot save the checkpoint ({reason}). The older ones are intact: check the disk, then "
        f"{argument('resume', True)}"
    )

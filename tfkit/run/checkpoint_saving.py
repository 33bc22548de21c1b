"""Save a checkpoint to a temporary folder, which is flushed to disk and then renamed, so that a kill loses no older checkpoint."""

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
    """Save a checkpoint as `root`/step-..., replacing one of the same step, and return its path. `write` fills a temporary folder.

    Only the owner of the run's lock may call this function. After a transient disk error, the save is tried again. `make_room` deletes
    checkpoints that are not needed (None: none can be deleted). It is called if the disk has less free space than the newest checkpoint
    takes, and if the disk is full during the save, which is then tried once more. Raises MachineError for a disk error, and any other error
    that `write` raises; after every error the unfinished checkpoint is removed, and the older ones are unchanged.
    """
    final = checkpoint_folder(root, step)

    def fill(folder: Path) -> None:
        write(folder)
        write_manifest(folder)

    def save() -> Path:
        with_retries(lambda: write_folder(final, fill, _rename_over))
        return final

    try:
        clear_leftovers(root)
        last = newest_checkpoint(root)
        if make_room and last is not None and shutil.disk_usage(root).free < recorded_bytes(last):
            make_room()
        try:
            return save()
        except Exception as error:
            if make_room is None or not disk_is_full(error):
                raise
        make_room()
        return save()
    except Exception as error:
        if isinstance(error, TfkitError) or not is_os_error(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        with contextlib.suppress(OSError):
            reason = f"{reason}; {shutil.disk_usage(root).free / 1e9:.3g} GB free"
        raise MachineError(
            f"{final}: cannot save the checkpoint ({reason}). The older ones are intact: check the disk, then {argument('resume', True)}"
        ) from error


def _rename_over(temporary: Path, final: Path) -> None:
    """Rename `temporary` to `final`. If a kill leaves the checkpoint that was at `final` as `.old-...`, clear_leftovers restores it."""
    old = temporary_sibling(final, "old") if os.path.lexists(final) else None
    if old:
        final.rename(old)
    try:
        rename(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            if final.exists():  # renamed, but the new name is not flushed to disk, so a power cut may undo the rename
                final.rename(temporary)
            if old:
                old.rename(final)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)

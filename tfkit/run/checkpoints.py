"""Save, find and delete checkpoints. checkpoints/step-000500/ exists completely or not at all; the newest and the best are never lost.

.step-000500.tmp-4711-9f3c   being written; if a kill leaves it, the next save or resume removes it
.step-000500.old-4711-03aa   being replaced; if a kill came before the new checkpoint had its name, the old one is restored
.step-000500.del-4711-51b0   being deleted; if a kill leaves it, the next save or resume removes it
step-000500                  complete: its manifest was written last, and everything was synced before the rename
step-000500.damaged          damaged, and skipped by a resume; deleted once the resumed run has a checkpoint of the same or a later step
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tfkit.durable import disk_is_full, is_os_error, rename, temporary_sibling, with_retries, write_folder
from tfkit.errors import MachineError, ModelError, TfkitError, argument, reason_of
from tfkit.run.manifest import is_complete, recorded_bytes, refuse_later_version, verify, write_manifest

_STEP = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\.(?P<name>step-\d{6,}|best\.json|README\.md)\.(?P<kind>tmp|old|del)-\d+-[0-9a-f]+")
_SET_ASIDE = re.compile(r"step-(\d{6,})\.damaged")


def step_folders(root: Path) -> list[Path]:
    """Return every folder with the name of a checkpoint, complete or not, by increasing step."""
    return sorted((path for path in _folders(root) if _STEP.fullmatch(path.name)), key=step_of)


def checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints whose files all exist with the sizes in manifest.json, by increasing step. Only the manifests are read."""
    return [path for path in step_folders(root) if is_complete(path)]


def newest_checkpoint(root: Path) -> Path | None:
    """Return the complete checkpoint of the highest step; None if there is none."""
    return next((path for path in reversed(step_folders(root)) if is_complete(path)), None)


def newest_step(root: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 without one."""
    newest = newest_checkpoint(root)
    return step_of(newest) if newest else 0


def newest_good(root: Path, warn: Callable[[str], None], exact: bool = False) -> Path | None:
    """Return the newest checkpoint whose files have the SHA-256 hashes in its manifest; None if there are no checkpoints.

    Only the owner of the run's lock may call this function. Damaged checkpoints that are newer are renamed, so that they no longer count as
    checkpoints, and `warn` is called with the reason for each. Raises ModelError, and renames nothing, if all are damaged, if one that is
    checked is of a later version of tfkit, or, with `exact`, if the newest is damaged. Raises MachineError for a disk error.
    """
    clear_leftovers(root)
    damaged: dict[Path, str] = {}
    for path in reversed(step_folders(root)):
        refuse_later_version(path)
        problems = verify(path)
        if not problems:
            for newer, problem in damaged.items():
                warn(f"skipped a damaged checkpoint: {problem}; it is kept as {_set_aside(newer).name} until the run has passed its step")
            return path
        damaged[path] = "; ".join(problems)
        if exact:
            raise ModelError(
                f"the newest checkpoint cannot be used: {damaged[path]}. Without {argument('exact', True)} the run resumes from an "
                "older one"
            )
    if damaged:
        raise ModelError(
            f"no checkpoint in {root} can be used: {'; '.join(damaged.values())}. Start again with another {argument('run')}, or "
            "restore the files"
        )
    return None


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], make_room: Callable[[], object] | None = None) -> Path:
    """Save a checkpoint as `root`/step-..., replacing one of the same step, and return its path. `write` fills a temporary folder.

    Only the owner of the run's lock may call this function. After a transient disk error, the save is tried again. `make_room` deletes
    checkpoints that are not needed (None: none can be deleted). It is called if the disk has less free space than the newest checkpoint
    takes, and if the disk is full during the save, which is then tried once more. Raises MachineError for a disk error, and any other error
    that `write` raises; after every error the unfinished checkpoint is removed; others are kept, unless deleted by `make_room`.
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
        reason = reason_of(error)
        with contextlib.suppress(OSError):
            reason = f"{reason}; {shutil.disk_usage(root).free / 1e9:.3g} GB free"
        raise MachineError(
            f"{final}: cannot save the checkpoint ({reason}). The older ones are intact: check the disk, then {argument('resume', True)}"
        ) from error


def prune(root: Path, keep: int, best: Path | None) -> list[Path]:
    """Delete all complete checkpoints except the `keep` newest and `best`. Also delete each damaged one that a resume has renamed, if a
    complete checkpoint of the same or a later step exists.

    Returns the deleted paths. Raises MachineError for a disk error.
    """
    assert keep >= 1, "the newest checkpoint is never deleted"
    complete = checkpoints(root)
    superfluous = [path for path in complete[:-keep] if best is None or path.name != best.name]
    if complete:
        superfluous += [path for path in set_aside(root) if step_of(path) <= step_of(complete[-1])]
    for path in superfluous:
        _delete(path)
    return superfluous


def set_aside(root: Path) -> list[Path]:
    """Return the damaged checkpoints that a resume skipped and renamed, by increasing step."""
    return sorted((path for path in _folders(root) if _SET_ASIDE.fullmatch(path.name)), key=step_of)


def leftovers(root: Path) -> list[Path]:
    """Return the temporary folders and files of saves and deletions that a kill interrupted or that are in progress."""
    return sorted(path for folder in (root, *step_folders(root)) for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def clear_leftovers(root: Path) -> None:
    """Remove what killed saves and deletions left; restore a checkpoint if its replacement is missing. Raises MachineError."""
    if not root.is_dir():
        return
    for path in leftovers(root):
        try:
            with_retries(partial(_clear_leftover, path))
        except OSError as error:
            raise MachineError(
                f"{path}: cannot remove the files that a killed save left ({error.strerror}): check the folder and its disk"
            ) from error


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint."""
    match = _STEP.fullmatch(checkpoint.name) or _SET_ASIDE.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def checkpoint_folder(root: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return root / f"step-{step:06d}"


def require_free_space(root: Path, needed_bytes: int) -> None:
    """Raise MachineError if the disk of `root` (a folder that need not exist yet) has less than `needed_bytes` free.

    The space of the present checkpoints in `root` counts as free, since the new checkpoints replace them.
    """
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    needed_bytes -= sum(map(recorded_bytes, checkpoints(root)))
    if free < needed_bytes:
        raise MachineError(
            f"{root}: the planned checkpoints need {needed_bytes / 1e9:.3g} GB, the disk has {free / 1e9:.3g} GB free. "
            f"Free some, lower checkpoint.keep, choose another disk with {argument('run')}, or start anyway with {argument('force', True)}"
        )


def _rename_over(temporary: Path, final: Path) -> None:
    """Rename any checkpoint at `final`, then `temporary` to `final`. After a kill between the two, clear_leftovers restores the old one."""
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


def _delete(path: Path) -> None:
    doomed = temporary_sibling(path.with_name(path.name.removesuffix(".damaged")), "del")
    _rename(path, doomed, "cannot delete this old checkpoint")  # so that no partly deleted folder has the name of a checkpoint
    shutil.rmtree(doomed, ignore_errors=True)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        _delete(aside)
    _rename(path, aside, "is damaged and cannot be set aside")
    return aside


def _rename(path: Path, name: Path, problem: str) -> None:
    try:
        with_retries(lambda: path.rename(name))
    except OSError as error:
        raise MachineError(f"{path}: {problem} ({error.strerror}): check the folder's permissions") from error


def _clear_leftover(path: Path) -> None:
    match = _LEFTOVER.fullmatch(path.name)
    assert match, path
    final = path.with_name(match["name"])
    if match["kind"] == "old" and not final.exists():
        path.rename(final)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _folders(root: Path) -> list[Path]:
    """Return the folders in `root` that are no links; [] if `root` does not exist."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    return []

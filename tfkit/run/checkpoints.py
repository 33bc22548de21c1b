"""Checkpoints on disk: checkpoints/step-000500/ is there whole or not at all, and the newest and the best are never lost.

.step-000500.tmp-4711-9f3c   being written       a kill leaves it; cleared by the next save or resume
.step-000500.old-4711-03aa   being replaced      put back if the kill came before the new one had the name
.step-000500.del-4711-51b0   being deleted
step-000500                  complete: its manifest was written last, and everything was synced before the rename
step-000500.damaged          damaged, and passed over by a resume; deleted when the run is past it again
"""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tfkit.durable import (
    comes_from_the_disk,
    disk_is_full,
    rename,
    temporary_sibling,
    with_retries,
    write_atomically,
    write_folder,
)
from tfkit.errors import MachineError, ModelError, TfkitError
from tfkit.run import strict_json
from tfkit.run.manifest import is_complete, recorded_bytes, refuse_later_version, verify, write_manifest

_STEP = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\.(?P<name>step-\d{6,}|best\.json|README\.md)\.(?P<kind>tmp|old|del)-\d+-[0-9a-f]+")
_SET_ASIDE = re.compile(r"step-(\d{6,})\.damaged")
_BEST = "best.json"


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], make_room: Callable[[], object] | None = None) -> Path:
    """Make `root`/step-... from what `write` puts into the empty folder it is given; one of the same step is replaced.

    Only the owner of the run's lock may call it. Errors of the disk that may pass are tried again. `make_room` (None: nothing can go) is
    called where the disk has less room than the last checkpoint took, and where it is full; then the save is tried once more.
    Raises MachineError if the disk refuses, and what `write` raises; then no trace is left and the older checkpoints are untouched.
    """
    try:
        clear_leftovers(root)
        if make_room and _is_tight(root):
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
        if comes_from_the_disk(error):
            raise _cannot_save(root, step, error) from error
        raise


def step_folders(root: Path) -> list[Path]:
    """Return every folder with a checkpoint's name, complete or not, by rising step."""
    return sorted((path for path in _folders(root) if _STEP.fullmatch(path.name)), key=step_of)


def checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoints by rising step: all files of the manifest exist with their sizes. Only manifests are read."""
    return [path for path in step_folders(root) if is_complete(path)]


def newest_checkpoint(root: Path) -> Path | None:
    """Return the complete checkpoint of the highest step."""
    return next((path for path in reversed(step_folders(root)) if is_complete(path)), None)


def newest_step(root: Path) -> int:
    """Return the step of the newest complete checkpoint; 0 without one."""
    newest = newest_checkpoint(root)
    return step_of(newest) if newest else 0


def newest_good(root: Path, warn: Callable[[str], None], exact: bool = False) -> Path | None:
    """Return the newest checkpoint whose hashes are right; None if there is none at all. Only for the owner of the run's lock.

    Each newer one is set aside, and `warn` is called with the reason: under its own name it would count as the newest.
    Raises ModelError if all are damaged, or one is of a later version of tfkit, with nothing moved; with `exact`, if the newest is.
    Raises MachineError if the disk refuses.
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
            raise ModelError(f"the newest checkpoint cannot be used: {damaged[path]}. Without --exact the run resumes from an older one")
    if damaged:
        raise ModelError(
            f"no checkpoint in {root} can be used: {'; '.join(damaged.values())}. Start again with another --run, or restore the files"
        )
    return None


def prune(root: Path, keep: int, best: Path | None) -> list[Path]:
    """Delete the complete checkpoints but the `keep` newest and `best`, and damaged ones that the run is past again; returns what went.

    Raises MachineError if the disk refuses.
    """
    assert keep >= 1, "the newest checkpoint is never deleted"
    complete = checkpoints(root)
    spare = [path for path in complete[:-keep] if best is None or path.name != best.name]
    if complete:
        spare += [path for path in set_aside(root) if step_of(path) <= step_of(complete[-1])]
    for path in spare:
        _delete(path)
    return spare


def set_aside(root: Path) -> list[Path]:
    """Return the damaged checkpoints that a resume passed over, by rising step."""
    return sorted((path for path in _folders(root) if _SET_ASIDE.fullmatch(path.name)), key=step_of)


def leftovers(root: Path) -> list[Path]:
    """Return the folders and files that killed saves and deletions left, or that one is working on at this moment."""
    return sorted(path for folder in (root, *step_folders(root)) for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def clear_leftovers(root: Path) -> None:
    """Remove leftovers of killed saves and deletions, after putting back a checkpoint that was just being replaced.

    Raises MachineError if the disk refuses.
    """
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
    """Return the step in a checkpoint's name."""
    found = _STEP.fullmatch(checkpoint.name) or _SET_ASIDE.fullmatch(checkpoint.name)
    assert found, checkpoint
    return int(found[1])


def free_space_for(root: Path, needed_bytes: int) -> None:
    """Raise MachineError, with the numbers, if the disk of `root` (which need not exist yet) has less than `needed_bytes` free.

    Room that the checkpoints of an earlier attempt take is room for those that will replace them.
    """
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    needed_bytes -= sum(map(recorded_bytes, checkpoints(root)))
    if free < needed_bytes:
        raise MachineError(
            f"{root}: the planned checkpoints need {needed_bytes / 1e9:.3g} GB, the disk has {free / 1e9:.3g} GB free. "
            "Free some, lower checkpoint.keep, choose another disk with --run, or start anyway with --force"
        )


@dataclass(frozen=True)
class Best:
    """The content of checkpoints/best.json: the step of the best checkpoint, and the metric that chose it."""

    step: int
    metric: str
    value: float


def record_best(root: Path, step: int, metric: str, value: float, higher_is_better: bool = False) -> bool:
    """Record the checkpoint of `step` as the best if its `value` is, and return whether it is. Raises OSError.

    A value that is not finite never is. A value of another metric, or of the same step (after resuming before it), replaces the record;
    so does any value if the best checkpoint no longer exists or is damaged.
    """
    if not math.isfinite(value):
        return False
    old = read_best(root) if best_checkpoint(root) else None
    if old and old.metric == metric and old.step != step and (value <= old.value if higher_is_better else value >= old.value):
        return False
    write_atomically(root / _BEST, strict_json.dumps(asdict(Best(step, metric, float(value)))) + "\n")
    return True


def read_best(root: Path) -> Best | None:
    """Return the content of best.json; None if it is missing or unreadable."""
    try:
        best = Best(**strict_json.loads((root / _BEST).read_bytes()))
        valid = type(best.step) is int and isinstance(best.metric, str) and type(best.value) in (int, float) and math.isfinite(best.value)
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return best if valid else None


def best_checkpoint(root: Path) -> Path | None:
    """Return the folder of the best checkpoint, if one is recorded and complete."""
    best = read_best(root)
    path = _folder(root, best.step) if best else None
    return path if path and is_complete(path) else None


def _save(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    def fill(folder: Path) -> None:
        write(folder)
        write_manifest(folder)

    final = _folder(root, step)
    write_folder(final, fill, _take_name)
    return final


def _take_name(temporary: Path, final: Path) -> None:
    """Rename, so that at every moment the step is there whole under its name, or as `old`, which clear_leftovers puts back."""
    old = temporary_sibling(final, "old") if os.path.lexists(final) else None
    if old:
        final.rename(old)
    try:
        rename(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            if final.exists():  # it may not outlast a power cut, so it does not count
                final.rename(temporary)
            if old:
                old.rename(final)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)


def _delete(path: Path) -> None:
    doomed = temporary_sibling(path.with_name(path.name.removesuffix(".damaged")), "del")
    try:
        with_retries(lambda: path.rename(doomed))  # no half-deleted checkpoint under its name
    except OSError as error:
        raise MachineError(f"{path}: cannot delete this old checkpoint ({error.strerror}): check the folder's permissions") from error
    shutil.rmtree(doomed, ignore_errors=True)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        _delete(aside)
    try:
        with_retries(lambda: path.rename(aside))
    except OSError as error:
        raise MachineError(f"{path}: is damaged and cannot be set aside ({error.strerror}): check the folder's permissions") from error
    return aside


def _clear_leftover(path: Path) -> None:
    found = _LEFTOVER.fullmatch(path.name)
    assert found, path
    name = path.with_name(found["name"])
    if found["kind"] == "old" and not name.exists():
        path.rename(name)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_tight(root: Path) -> bool:
    """Return whether the disk has less room than the last checkpoint took."""
    last = newest_checkpoint(root)
    return last is not None and shutil.disk_usage(root).free < recorded_bytes(last)


def _folders(root: Path) -> list[Path]:
    """Return the folders in `root`, which need not exist. Links are left out."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def _cannot_save(root: Path, step: int, error: Exception) -> MachineError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    with contextlib.suppress(OSError):
        reason = f"{reason}; {shutil.disk_usage(root).free / 1e9:.3g} GB free"
    return MachineError(
        f"{_folder(root, step)}: cannot save the checkpoint ({reason}). The older ones are intact: check the disk, then --resume"
    )

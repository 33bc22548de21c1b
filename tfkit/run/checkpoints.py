"""Checkpoints on disk: checkpoints/step-000500/ is there whole or not at all, and the newest and the best are never lost.

.step-000500.tmp-4711-9f3c   being written       a kill leaves it; cleared by the next save or resume
.step-000500.old-4711-03aa   being replaced      put back if the kill came before the new one had the name
.step-000500.del-4711-51b0   being deleted
step-000500                  complete: its manifest was written last, and everything was synced before the rename
"""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tfkit.errors import MachineError, ModelError, TfkitError
from tfkit.run import strict_json
from tfkit.run.durable import disk_is_full, sync_file, sync_folder, temporary_sibling, write_atomically
from tfkit.run.manifest import is_complete, regular_files, verify, write_manifest

_STEP = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\.(?P<name>step-\d{6,}|best\.json)\.(?P<kind>tmp|old|del)-\d+-[0-9a-f]+")
_BEST = "best.json"


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], make_room: Callable[[], object] | None = None) -> Path:
    """Make `root`/step-... from what `write` puts into the empty folder it is given; one of the same step is replaced.

    Only the owner of the run's lock may call it. On a full disk `make_room` (None: nothing can go) is called and the save tried once more.
    Raises MachineError if the disk refuses, and what `write` raises; then no trace is left and the older checkpoints are untouched.
    """
    clear_leftovers(root)
    try:
        return _save(root, step, write)
    except TfkitError:
        raise
    except Exception as error:
        if not disk_is_full(error):
            if isinstance(error, OSError):
                raise _cannot_save(root, step, error) from error
            raise
        if make_room is None:
            raise _cannot_save(root, step, error) from error
    make_room()
    try:
        return _save(root, step, write)
    except Exception as error:
        if isinstance(error, OSError) or disk_is_full(error):
            raise _cannot_save(root, step, error) from error
        raise


def checkpoints(root: Path) -> list[Path]:
    """The complete checkpoints by rising step: all files of the manifest are there with their sizes. Nothing is read but manifests."""
    return [path for path in _step_folders(root) if is_complete(path)]


def newest_checkpoint(root: Path) -> Path | None:
    """The complete checkpoint of the highest step."""
    return next((path for path in reversed(_step_folders(root)) if is_complete(path)), None)


def newest_good(root: Path, warn: Callable[[str], None], exact: bool = False) -> Path | None:
    """The newest checkpoint whose hashes are right, to resume from; None if there is none at all. Only for the owner of the run's lock.

    `warn` gets a line for each newer one that is passed over. Raises ModelError if all are damaged; with `exact`, if the newest is.
    """
    clear_leftovers(root)
    folders = _step_folders(root)
    damage = []
    for path in reversed(folders):
        problems = verify(path)
        if not problems:
            return path
        damage.append("; ".join(problems))
        if exact:
            raise ModelError(f"the newest checkpoint cannot be used: {damage[0]}. Without --exact an older one is resumed from")
        warn(f"passed over a damaged checkpoint: {damage[-1]}")
    if folders:
        raise ModelError(f"no checkpoint in {root} can be used: {'; '.join(damage)}. Start anew with another --run, or restore the files")
    return None


def prune(root: Path, keep: int, best: Path | None) -> list[Path]:
    """Delete the complete checkpoints but the `keep` newest and `best`; returns what went. Raises MachineError if the disk refuses."""
    assert keep >= 1, "the newest checkpoint is never deleted"
    spare = [path for path in checkpoints(root)[:-keep] if best is None or path.name != best.name]
    for path in spare:
        doomed = temporary_sibling(path, "del")
        try:
            path.rename(doomed)  # no half-deleted checkpoint under its name
        except OSError as error:
            raise MachineError(f"{path}: cannot delete this old checkpoint ({error.strerror}): check the folder's permissions") from error
        shutil.rmtree(doomed, ignore_errors=True)
    return spare


def clear_leftovers(root: Path) -> None:
    """Remove what killed saves and deletions left, after putting back a checkpoint that was just being replaced."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        found = _LEFTOVER.fullmatch(path.name)
        if not found:
            continue
        name = root / found["name"]
        if found["kind"] == "old" and not name.exists():
            path.rename(name)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    found = _STEP.fullmatch(checkpoint.name)
    assert found, checkpoint
    return int(found[1])


def free_space_for(root: Path, needed_bytes: int) -> None:
    """Raise MachineError, with the numbers, if the disk of `root` (which need not exist yet) has less than `needed_bytes` free."""
    place = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise MachineError(
            f"{root}: the planned checkpoints need {needed_bytes / 1e9:.3g} GB, the disk has {free / 1e9:.3g} GB free. "
            "Free some, lower checkpoint.keep, choose another disk with --run, or start anyway with --force"
        )


@dataclass(frozen=True)
class Best:
    """What checkpoints/best.json says: the step of the best checkpoint and the metric it was judged by."""

    step: int
    metric: str
    value: float


def record_best(root: Path, step: int, metric: str, value: float, higher_is_better: bool = False) -> bool:
    """Record the checkpoint of `step` as the best if its `value` is; says whether it is. Raises OSError.

    A value that is not finite never is; a value of another metric, or of the same step (after resuming before it), replaces what stands.
    """
    if not math.isfinite(value):
        return False
    old = read_best(root)
    if old and old.metric == metric and old.step != step and (value <= old.value if higher_is_better else value >= old.value):
        return False
    write_atomically(root / _BEST, strict_json.dumps(asdict(Best(step, metric, float(value)))) + "\n")
    return True


def read_best(root: Path) -> Best | None:
    """What best.json says; None if it is missing or unreadable."""
    try:
        best = Best(**strict_json.loads((root / _BEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    if type(best.step) is not int or not isinstance(best.metric, str) or not isinstance(best.value, float | int):
        return None
    return best


def best_checkpoint(root: Path) -> Path | None:
    """The folder of the best checkpoint, if one is recorded and complete."""
    best = read_best(root)
    path = _folder(root, best.step) if best else None
    return path if path and is_complete(path) else None


def _save(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    final = _folder(root, step)
    temporary = temporary_sibling(final)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in regular_files(temporary):
            sync_file(path)
        write_manifest(temporary)
        for place, _, _ in os.walk(temporary, topdown=False):
            sync_folder(Path(place))
        _take_name(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _take_name(temporary: Path, final: Path) -> None:
    """Rename, so that at every moment the step is there whole under its name, or as `old`, which clear_leftovers puts back."""
    old = temporary_sibling(final, "old") if os.path.lexists(final) else None
    if old:
        final.rename(old)
    try:
        temporary.rename(final)
    except BaseException:
        if old and not final.exists():
            old.rename(final)
        raise
    sync_folder(final.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)


def _step_folders(root: Path) -> list[Path]:
    """Everything named as a checkpoint, complete or not, by rising step. A link is none of ours."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            (path for path in root.iterdir() if _STEP.fullmatch(path.name) and path.is_dir() and not path.is_symlink()), key=step_of
        )
    return []


def _folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def _cannot_save(root: Path, step: int, error: Exception) -> MachineError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    with contextlib.suppress(OSError):
        reason = f"{reason}; {shutil.disk_usage(root).free / 1e9:.3g} GB free"
    return MachineError(
        f"{_folder(root, step)}: cannot save the checkpoint ({reason}). The older ones are whole: mend the disk, then --resume"
    )

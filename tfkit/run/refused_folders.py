"""Checks that a folder can become a run folder: it is writable, and holds no other run, and no links or user files where a run writes."""

import errno
import os
from itertools import pairwise
from pathlib import Path

from tfkit.errors import UsageError, argument
from tfkit.run.run_json import CHAIN, SWEEP

FILES = ("recipe.yaml", "run.json", "metrics.jsonl", "emissions.csv")
FOLDERS = ("carbon", "checkpoints", "tensorboard")
WRITTEN = (*FILES, *FOLDERS, "replay", "ranks", "crash.log", "lock")
_GROUPS = {CHAIN: "a recipe with stages", SWEEP: "a sweep"}  # for error messages: the kinds of folders that hold several runs


def refuse_path(path: Path) -> None:
    """Raise UsageError for a `..` after a folder, as in `runs/../../x`; a path that begins with `..` is allowed.

    Raise FileNotFoundError for a dangling link: the disk of its target may not be mounted, and a folder made in place of the target would
    fill another disk.
    """
    if any(part == ".." and before != ".." for before, part in pairwise(path.parts)):
        raise UsageError(f"{path}: leaves the folder that it begins with. Give the path without `..` as {argument('run')}")
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            raise FileNotFoundError(errno.ENOENT, f"{part} is a link to {os.readlink(part)}, which does not exist: is its disk mounted?")


def refuse_links(path: Path) -> None:
    """Raise UsageError for a link at a path to which a run writes."""
    inside = [entry for name in FOLDERS if (path / name).is_dir() for entry in (path / name).iterdir()]
    for entry in (*(path / name for name in WRITTEN), *inside):
        if entry.is_symlink():
            raise UsageError(f"{entry}: a link; nothing is written through it. Remove it, or give its target as {argument('run')}")


def refuse_content(path: Path) -> None:
    """Raise UsageError for links and for the user's files, such as a recipe.yaml without run.json (tfkit writes run.json first). Raise
    OSError for a file where a run needs a folder, for a folder where it needs a file, and for a folder without permission to write, since
    otherwise the run would fail only at its first checkpoint.
    """
    refuse_links(path)
    for name in WRITTEN:
        entry, is_folder = path / name, name in (*FOLDERS, "replay", "ranks")
        if not entry.exists():
            continue
        if not (entry.is_dir() if is_folder else entry.is_file()):
            raise OSError(errno.EEXIST, f"{name} is not a {'folder' if is_folder else 'file'}")
        if is_folder and not os.access(entry, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{name} cannot be written: {os.strerror(errno.EACCES)}")
    present = [name for name in FILES if (path / name).exists()]
    if present and "run.json" not in present and not (path / "run.json.damaged").exists():
        foreign = f"holds a {present[0]} that was not written by tfkit and would be overwritten. Give another folder with {argument('run')}"
        raise UsageError(f"{path}: {lost_receipt(path) or foreign}")


def lost_receipt(path: Path) -> str | None:
    """Return the problem, as text, of a run that lost its run.json but has checkpoints/step-* or carbon/*.jsonl; None for other folders."""
    if any((path / name).exists() for name in ("run.json", "run.json.damaged")):
        return None
    if not any((*(path / "checkpoints").glob("step-*"), *(path / "carbon").glob("*.jsonl"))):
        return None
    return (
        "its run.json is missing, without which the run cannot continue and has no totals. Restore that file; or use a checkpoint of "
        f"this run with {argument('start')}, and give another folder with {argument('run')}"
    )


def refuse_checkpoints(path: Path, resume: bool | None) -> None:
    """Raise UsageError for a folder with checkpoints unless the run is to be resumed. `resume`: None for a command that does not train."""
    if not resume and any((path / "checkpoints").glob("step-*")):
        remedy = "Give" if resume is None else f"Resume it with {argument('resume', True)}, or give"
        raise UsageError(f"{path}: holds checkpoints of an earlier run. {remedy} another folder with {argument('run')}")


def refuse_other_kind(path: Path, kind: object, group: str | None) -> None:
    """Raise UsageError if `kind`, from the folder's run.json, is CHAIN or SWEEP, and `group`, the kind of the new run, is different.

    Raise UsageError also if `group` is CHAIN or SWEEP and the folder holds the checkpoints of a single run. `group` None: a single run.
    """
    if group is not None and any((path / "checkpoints").glob("step-*")):
        raise UsageError(
            f"{path}: holds the checkpoints of a run, and {_GROUPS[group]} needs a folder for all of its runs. Give another folder "
            f"with {argument('run')}"
        )
    if kind in _GROUPS and kind != group:
        raise UsageError(f"{path}: holds the runs of {_GROUPS[str(kind)]}. Give another folder with {argument('run')}")

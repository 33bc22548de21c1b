"""The run folder, which holds everything about one run. Only the process that owns the folder's lock writes there, except that the energy
meters write carbon/ and emissions.csv, and the ranks of a distributed training write ranks/.

runs/<name>/  recipe.yaml  run.json  metrics.jsonl  emissions.csv  carbon/  tensorboard/  checkpoints/step-000500/  lock
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tfkit.durable import write_atomically
from tfkit.errors import MachineError, Stopped, TfkitError, UsageError, argument, reason_of
from tfkit.run.checkpoints import clear_leftovers, newest_step
from tfkit.run.lock import FolderLock
from tfkit.run.machine import describe_machine
from tfkit.run.refused_folders import (
    FILES,
    FOLDERS,
    WRITTEN,
    refuse_checkpoints,
    refuse_content,
    refuse_links,
    refuse_other_kind,
    refuse_path,
)
from tfkit.run.run_json import End, Receipt, RunDocument, known_of

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def rounding_fields(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the processor's name and the version of torch, on which floating-point rounding depends. `machine`: the result of
    `describe_machine`, or the same fields of a run.json.
    """
    return {"processor": (machine.get("processor") or {}).get("name"), "torch": (machine.get("versions") or {}).get("torch")}


class RunFolder:
    """An open run folder, locked until `close`. When its context ends, it closes, and a running attempt is recorded as stopped or failed.

    If run.json cannot be written, `open` and `begin_attempt` raise an error; the other methods only warn, and only once.
    """

    def __init__(self, path: Path, lock: FolderLock, receipt: Receipt, warn: Callable[[str], None]):
        self.path = path
        self.recipe, self.receipt_file, self.metrics, self.emissions = (path / name for name in FILES)
        self.carbon, self.checkpoints, self.tensorboard = (path / name for name in FOLDERS)
        self._lock = lock
        self._receipt = receipt
        self._warn = warn
        self._warned = False
        self._is_new = False
        settings = ("threads", "ranks", "device", "precision", "compile", "activation_checkpointing")
        self.arithmetic = {name: receipt.document.get(name) for name in settings} | rounding_fields(receipt.document)
        """The settings, the processor and the version of torch, as recorded, on which the previous attempt's rounding depended."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        resume: bool | None,
        command: list[str] | None,
        warn: Callable[[str], None] = lambda _: None,
        group: str | None = None,
    ) -> "RunFolder":
        """Make the folder if it does not exist, lock it, and open it. If a finished run is resumed whose folder the user may not change,
        the folder is opened without a lock, and nothing in it is changed.

        `resume`: whether to continue from the folder's checkpoints; None for a command that does not train. `command`: the command line
        to record in run.json; None keeps the recorded one. `group`: CHAIN or SWEEP (run_json.py) if the folder is to hold several runs.

        Raises MachineError if the folder cannot be written or another process has locked it. Raises UsageError if the folder holds one of
        these: checkpoints although `resume` is not true; several runs of another `group`; a link, or another program's file, where a
        run writes a file. UsageError is also raised if a run cannot have the folder's name, or if the path has a `..` after a folder.
        """
        if resume and not os.access(path, os.W_OK) and known_of(path).status == "finished":
            receipt = Receipt.open(path / "run.json", warn)
            refuse_other_kind(path, receipt.document.get("kind"), group)
            return cls(path.resolve(), FolderLock(path / "lock"), receipt, warn)
        path, lock, is_new = _locked_folder(path)
        try:
            for leftover in [left for name in FILES for left in path.glob(f".{name}.tmp-*")]:
                leftover.unlink()
            clear_leftovers(path / "checkpoints")
            refuse_checkpoints(path, resume)
            receipt = Receipt.open(path / "run.json", warn, newest_step(path / "checkpoints") or None)
            if command is not None:
                refuse_other_kind(path, receipt.document.get("kind"), group)
            receipt.record({"name": path.name} | ({} if command is None else {"command": command}))
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise _cannot_write(path, error) from error
            raise
        folder = cls(path, lock, receipt, warn)
        folder._is_new = is_new
        return folder

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock and the folder is still at its path; otherwise nothing may be written there."""
        return self._lock.is_held

    @property
    def run_id(self) -> str:
        """The run's uuid, the same in all attempts."""
        return str(self._receipt.document["run_id"])

    @property
    def attempt(self) -> int:
        """The index, from 1, of the running attempt (one start of the run), or of the next attempt if none is running."""
        return len(self._receipt.document["attempts"]) + (not self._receipt.running)

    @property
    def has_checkpoints(self) -> bool:
        """Whether the folder has a checkpoint. Without one, the run starts at step 0, and its recipe may differ from recipe.yaml."""
        return any(self.checkpoints.glob("step-*"))

    @property
    def begun(self) -> bool:
        """Whether the folder has checkpoints and the recipe of their training, so that the run can be resumed."""
        return is_begun(self.path)

    @property
    def recorded(self) -> RunDocument:
        """The present content of run.json."""
        return self._receipt.recorded

    def require_held(self) -> None:
        """Raise MachineError if the folder was deleted or moved: another run, which must not be changed, may now be at its path."""
        if not self.is_held:
            raise MachineError(
                f"{self.path}: this run folder was deleted or moved while the run went on, so nothing more is saved there; start the run "
                "again, or resume it where the folder is now"
            )

    def begin_attempt(self, threads: int | None = None, **fields: Any) -> None:
        """Add an attempt, this machine and `fields` to run.json; `threads`: the number that the user requested, None for the default.

        In a folder with checkpoints, run.json describes the machine that saved them until `record_resume` is called, since the new attempt
        may fail before it takes a step. Raises MachineError if run.json cannot be written; no step was taken yet, so no training is lost.
        """
        if not self.has_checkpoints:
            self._receipt.forget("result", "rate_trial")
            fields |= describe_machine() | ({} if threads is None else {"threads": threads})
        try:
            self._receipt.begin_attempt(fields)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def record_resume(self, resumed_from: Path, step: int) -> None:
        """Record in run.json the checkpoint from which the attempt resumes, its `step`, and the present machine."""
        self._write(lambda: self._receipt.record_resume(resumed_from.name, step, describe_machine()))

    def record(self, **fields: Any) -> None:
        """Set fields of run.json, such as threads, data, totals, result; each value replaces the old one."""
        self._write(lambda: self._receipt.record(fields))

    def record_totals(self, fields: Mapping[str, Any]) -> None:
        """Set `fields` in the object `totals` of run.json; the other fields of `totals` are kept."""
        self.record(totals={**(self._receipt.document.get("totals") or {}), **fields})

    def write_recipe(self, text: str) -> None:
        """Write recipe.yaml atomically, since resuming reads it. Raises MachineError."""
        try:
            write_atomically(self.recipe, text)
        except OSError as error:
            raise MachineError(
                f"{self.recipe}: cannot be written ({error.strerror}); check the disk, or give another {argument('run')}"
            ) from error

    def update_time(self) -> None:
        """Write the duration of the running attempt to run.json, at most every five seconds. A kill loses the time since the last write."""
        self._write(self._receipt.update_time)

    def confirm_finished(self) -> None:
        """Set the status to finished again, after an attempt to train a finished run for more steps has failed."""
        self._write(self._receipt.confirm_finished)

    def end_attempt(self, status: End, *, step: int | None = None, error: str | None = None, **fields: Any) -> None:
        """Record how the attempt ended, its last step and error message, and set `fields` of run.json. A second call changes nothing."""
        self._write(lambda: self._receipt.end_attempt(status, step, error, fields))

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_new and isinstance(error, TfkitError | Stopped) and not self._receipt.document["attempts"]:
            with suppress(OSError):
                _delete(self.path)  # this process made the folder, and began no attempt in it
        # A Python caller that closes a generator, or a program that stops reading stdout (exit code 0), is no failure of the run.
        stopped = isinstance(error, Stopped | KeyboardInterrupt | GeneratorExit) or getattr(error, "exit_code", None) == 0
        message = f"{type(error).__name__}: {error}" if error else "ended without a status"
        self.end_attempt("stopped" if stopped else "failed", error=message)
        self.close()

    def _write(self, change: Callable[[], None]) -> None:
        try:
            if self.is_held:
                change()
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"{self.receipt_file}: cannot be written ({error.strerror}); the run continues")


def _locked_folder(path: Path) -> tuple[Path, FolderLock, bool]:
    """Make the folder if it does not exist, check and lock it; return its path without links, the lock, and whether it is new."""
    try:
        refuse_path(path)
        path = path.resolve()
        if not _SLUG.fullmatch(path.name):
            raise UsageError(
                f"run name {path.name!r}: a name consists of letters, digits, dots, dashes and underscores, and begins with a letter or "
                f"digit. Give a folder with such a name with {argument('run')}"
            )
        is_new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        refuse_content(path)
        lock = FolderLock(path / "lock")
        lock.acquire()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise _cannot_write(path, error) from error
    return path, lock, is_new


def is_begun(path: Path) -> bool:
    """Return whether a folder holds a run that can be resumed: checkpoints, and the recipe of their training."""
    try:
        return (path / "recipe.yaml").is_file() and any((path / "checkpoints").glob("step-*"))
    except OSError:  # RunFolder.open reports the reason
        return False


def delete_run(path: Path) -> bool:
    """Delete a run's files, and its folder unless other files are in it; return whether the folder is gone. Raises MachineError."""
    lock = FolderLock(path / "lock")
    try:
        refuse_links(path)
        lock.acquire()
        try:
            return _delete(path)
        finally:
            lock.release()
    except (OSError, UsageError) as error:
        raise MachineError(f"{path}: cannot be deleted ({error}); delete it yourself") from error


def _delete(path: Path) -> bool:
    """Delete the files of a run, and its folder if nothing else is in it. Return whether the folder is gone."""
    for name in WRITTEN:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()
    return not path.exists()


def _cannot_write(path: Path, error: Exception) -> MachineError:
    return MachineError(f"{path}: cannot be a run folder ({reason_of(error)}). Give a folder that can be written with {argument('run')}")

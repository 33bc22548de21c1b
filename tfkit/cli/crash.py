"""The place of a bug's traceback: the run's folder, once a run has said that it has one."""

import contextlib
import traceback
from pathlib import Path

from tfkit import console

_folder: Path | None = None
words: list[str] = []  # those of the command line that runs


class AlreadyReportedError(Exception):
    """Another process of this command ended with a code, and has said why."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def set_folder(folder: Path | None) -> None:
    """Set the folder whose crash.log gets the traceback of a bug; None: it goes to stderr."""
    global _folder
    _folder = folder


def report(error: BaseException) -> int:
    """Write one line on stderr, and the traceback in the folder; without one, or if it cannot be written, on stderr as well.
    Return the exit code of a bug.
    """
    trace = "".join(traceback.format_exception(error))
    first = str(error).strip().partition("\n")[0]
    line = f"tfkit: a bug: {type(error).__name__}" + (f": {first}" if first else "")
    if _folder is not None:
        with contextlib.suppress(OSError):
            log = _folder / "crash.log"
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(trace)
            return console.fail(f"{line} (the traceback is in {log})", 1)
    console.error(trace.rstrip())
    return console.fail(line, 1)

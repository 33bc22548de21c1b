"""The traceback of a bug: written into the run folder, once the command has one."""

import contextlib
import traceback
from pathlib import Path

from tfkit import console

_folder: Path | None = None
words: list[str] = []  # of the current command line


class AlreadyReportedError(Exception):
    """Another process of this command failed, and has reported its error."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def set_folder(folder: Path | None) -> None:
    """Set the folder in whose crash.log the traceback of a bug is written; None: it goes to stderr."""
    global _folder
    _folder = folder


def report(error: BaseException) -> int:
    """Report a bug in one line on stderr, and write its traceback into the folder, or else to stderr. Return the exit code."""
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

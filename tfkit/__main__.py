"""The program: runs a command and turns what it raises into the exit codes of the command line's contract."""

import contextlib
import os
import sys
from collections.abc import Sequence

import typer

from tfkit import console
from tfkit.cli import app, crash
from tfkit.errors import Stopped, TfkitError

# Typer's own click, or the one that it depends on: what either raises for a wrong command line.
_ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own, and return the exit code."""
    console.set_quiet(False)
    crash.set_folder(None)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError as error:
        code = _ended_by_reader(error)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # Not standalone: click would turn every error into its own message and code.
        code = app(args=None if arguments is None else list(arguments), prog_name="tfkit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (TfkitError, Stopped) as error:
        console.error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.error("interrupted")
        return 130
    except BrokenPipeError:
        raise
    except _ClickException as error:
        error.show()  # type: ignore[attr-defined]
        return 2
    except Exception as error:
        crash.report(error)
        return 1


def _ended_by_reader(error: BrokenPipeError) -> int:
    """0 if it is stdout that nobody reads any more, as in `tfkit generate ... | head -1`; a broken pipe inside is a bug."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # the interpreter flushes once more on its way out
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    crash.report(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Run a command, in N processes with --ranks N, and convert the exceptions that it raises into the exit codes of docs/cli.md."""

import contextlib
import io
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tfkit import console
from tfkit.cli import app
from tfkit.errors import MachineError, Stopped, TfkitError, UsageError, is_out_of_memory, naming, refusal
from tfkit.run.signals import StopSignals, forwarded

if TYPE_CHECKING:
    from tfkit.engine.training_run.ranks_of_command import Ranks

# Click's exception for an invalid command line, found by its name: newer versions of Typer contain a copy of click, older ones import it.
_ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

COMPLETION = "_TFKIT_COMPLETE"  # the environment variable that the script of --install-completion sets to ask for completions
_TEXTS = ("--prompt", "--stop", "--attention", "--target")  # options whose value may be an empty text

words_of_command: list[str] = []  # the command-line arguments
_crash_folder: Path | None = None


class AlreadyReportedError(Exception):
    """Raised if another process of this command has failed and has already reported its error."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def run(words: list[str], signals: StopSignals) -> int:
    """Run a command line, and return the exit code. After a signal, raises Stopped, KeyboardInterrupt or the resulting error."""
    console.begin("--json" in words)
    set_crash_folder(None)
    words_of_command[:] = words
    try:
        with _warnings_on_one_line(), naming(_option):
            _invoke(words)
        return 0
    except Exception as error:
        if isinstance(error, Stopped) or signals.requested is not None:
            raise
        return _report(error)


def set_crash_folder(folder: Path | None) -> None:
    """Set the folder in which a bug's traceback is written, as crash.log; None: the traceback is written to stderr."""
    global _crash_folder
    _crash_folder = folder


def start_ranks(requested: int | None, again: str | None = None) -> "Ranks | None":
    """Return this process's place among the ranks (processes of --ranks N); None if it started the ranks, and all of them succeeded.

    Raises AlreadyReportedError if one of them failed. `again`: the command that continues the training, shown after the loss of a rank.
    """
    from tfkit.engine.training_run.ranks_of_command import Ranks, find_or_start

    found = find_or_start(requested, words_of_command, forwarded, console.error, again)
    if isinstance(found, Ranks):
        return found
    if found:
        raise AlreadyReportedError(found)
    return None


def _column(column: str | list[str]) -> str:
    if isinstance(column, str):
        return f"'{column}'" if column != column.strip() else column
    return f"[{','.join(column)}]"


def _option(name: str, value: object) -> str:
    """Return an argument of the Python API as a command-line option, such as --from CKPT or --resume; for overrides, "command line"."""
    if name == "overrides":
        return "command line"
    if isinstance(value, Mapping):
        return f'--columns "{",".join(f"{role}={_column(column)}" for role, column in value.items())}"'
    option = f"--{'no-' if value is False else ''}{'from' if name == 'start' else name.replace('_', '-')}"
    return option if value is None or isinstance(value, bool) else f"{option} {value}"


def _report(error: Exception) -> int:
    """Return the exit code for an exception, and report the exception unless it is a normal end or another process has reported it."""
    if isinstance(error, TfkitError):
        return console.fail(str(error), error.exit_code)
    if isinstance(error, console.ReaderGone | AlreadyReportedError):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return console.fail("interrupted", 130)
    if isinstance(error, typer.Exit):
        if error.exit_code != 1:
            return error.exit_code
        return console.fail("completion: this shell is not supported; run it in bash, zsh, fish or PowerShell", MachineError.exit_code)
    if isinstance(error, _ClickException):
        usage = io.StringIO()
        error.show(usage)  # type: ignore[attr-defined]
        console.error(usage.getvalue().rstrip("\n"))
        console.error_result(error.format_message(), 2)  # type: ignore[attr-defined]
        return 2
    if is_out_of_memory(error):
        return console.fail(
            "out of memory: use a machine with more, or reduce the need: a smaller training.micro_batch_size, evaluation.batch_size, "
            "data.sequence_length or model; fewer or shorter prompts, fewer new tokens or beams; training.activation_checkpointing=true",
            MachineError.exit_code,
        )
    if (refused := refusal(error)) is not None:
        return console.fail(refused, MachineError.exit_code)
    return _report_bug(error)


def _report_bug(error: BaseException) -> int:
    """Report a bug in one line, write its traceback to crash.log or, if that is not possible, to stderr, and return the exit code."""
    trace = "".join(traceback.format_exception(error))
    first = str(error).strip().partition("\n")[0]
    line = f"tfkit: a bug: {type(error).__name__}" + (f": {first}" if first else "")
    if _crash_folder is not None:
        with contextlib.suppress(OSError):
            log = _crash_folder / "crash.log"
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(trace)
            return console.fail(f"{line} (the traceback is in {log})", 1)
    console.error(trace.rstrip())
    return console.fail(line, 1)


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Show each Python warning of tfkit or of a library once, on one line."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = " ".join(str(message).split())
        if text not in shown:
            shown.add(text)
            console.warn(text)

    with warnings.catch_warnings():
        warnings.showwarning = show  # file and line are not shown, since users do not need them
        yield


def _refuse_empty(words: list[str]) -> None:
    """Raise UsageError for an empty argument (such as an unset shell variable), which as a path is the current folder; not after _TEXTS."""
    for before, word in pairwise(["tfkit", *words]):
        place = word.removesuffix("=") or before
        if re.fullmatch("(--[^=]*=)?", word) and place not in _TEXTS:
            shown = place if place.isprintable() else ascii(place)
            raise UsageError(f"command line: the argument after {shown} is empty; give it a value, or leave it out")


def _invoke(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    if COMPLETION in os.environ:  # a shell asks for completions
        command.main(list(arguments), "tfkit", standalone_mode=False)
    _refuse_empty(arguments)
    try:
        Path.cwd()
    except FileNotFoundError:  # in a deleted folder, the libraries of torch would end the process without a clear message
        raise MachineError("the current folder was deleted; change to another one, and start the command again") from None
    try:
        # command.main() cannot be used, because it converts errors, including broken pipes, into its own messages and exit codes.
        with command.make_context("tfkit", list(arguments)) as context:
            command.invoke(context)
    except OSError as error:
        if {"-h", "--help"} & set(arguments):  # click prints the help, so console has not handled the error
            console.raise_write_error(error)
        raise

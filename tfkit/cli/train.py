"""The part that pretrain, finetune and resume share: stop signals, the result, and the command that goes on with a stopped run."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tfkit import console
from tfkit.cli import crash
from tfkit.cli.results import show_training_result
from tfkit.engine.attempt import RunOptions
from tfkit.engine.gate import failed_gates
from tfkit.engine.settings import quoted
from tfkit.errors import BudgetReached, Stopped
from tfkit.run.signals import StopSignals


def train(attempt: Callable[[StopSignals], dict[str, Any]], options: RunOptions, words: Sequence[str], *, as_json: bool) -> None:
    """Run an attempt and show its result. When a signal ends it, the last line is the command that goes on with the run.

    `words`, the command and its arguments, repeat the attempt. They are needed where it ends before its training: only then are the recipe
    and the changes of this attempt in the run folder.
    """
    crash.set_folder(options.run)
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            with options.meeting.held():
                result = attempt(signals)
        except Stopped as stopped:
            again = words if stopped.result is None else ["resume", str(options.run)]
            if isinstance(stopped, BudgetReached):
                key = stopped.larger.partition("=")[0]
                again = [word for word in again if not word.startswith(f"{key}=")]
                command = shlex.join(["tfkit", *again, stopped.larger, *_flags(options, as_json)])
                error: Stopped = BudgetReached(f"{stopped}\n{command}", stopped.key, stopped.larger)
            else:
                command = shlex.join(["tfkit", *again, *_flags(options, as_json)])
                error = Stopped(f"{stopped}\n{command}", signals.requested or stopped.exit_code - 128)  # another rank's signal
            if stopped.result is not None and (as_json or isinstance(error, BudgetReached)):
                with suppress(console.ReaderGone):
                    show_training_result(stopped.result, as_json, error)
            raise error from None
        failed = failed_gates(result["gates"])
        with suppress(console.ReaderGone):  # the gates judge all the same
            show_training_result(result, as_json, failed)
    if failed is not None:
        raise failed


def tuning_words(changes: Sequence[str], checkpoint: str | None, data: str | None, stage: str = "") -> list[str]:
    """Return the key=value of a fine-tuning, with those of --from and --data; `stage`: the prefix of the first one's fields in a chain."""
    # First: data.train.0.columns can name columns.
    words = [f"{stage}data.train=[{{path: {quoted(data)}}}]"] if data is not None else []
    return [*words, *changes, *([f"{stage}model.from={quoted(checkpoint)}"] if checkpoint is not None else [])]


def command_line() -> list[str]:
    """Return the command line of this process, for run.json."""
    return ["tfkit", *sys.argv[1:]]


def option_words(*given: tuple[str, str | int | None]) -> list[str]:
    """Return the options that are given, by name and value, as words of a command line."""
    return [word for name, value in given if value is not None for word in (f"--{name}", str(value))]


def _flags(options: RunOptions, as_json: bool) -> list[str]:
    flags = [f"--{name}" for name, given in (("exact", options.exact), ("force", options.force), ("json", as_json)) if given]
    ranks, stages = None if options.ranks.is_alone else options.ranks.size, ",".join(options.stages) or None
    gates = [("fail-if", gate) for gate in options.fail_if]
    return flags + option_words(("device", options.device), ("threads", options.threads), ("ranks", ranks), *gates, ("stages", stages))

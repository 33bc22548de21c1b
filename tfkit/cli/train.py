"""The part that pretrain, finetune and resume share: stop signals, the result, and the command that goes on with a stopped run."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tfkit import console
from tfkit.cli import crash, inspect
from tfkit.cli.results import show_training_result
from tfkit.cli.session import command_session
from tfkit.engine.attempt import RunOptions
from tfkit.engine.beginning import Beginning
from tfkit.engine.gate import require_passed
from tfkit.engine.settings import quoted
from tfkit.errors import Stopped, UsageError
from tfkit.recipe.schema.sections import CarbonSection
from tfkit.run.signals import StopSignals

_ROWS_SHOWN = 2  # by --dry-run


def train(attempt: Callable[[StopSignals], dict[str, Any]], options: RunOptions, words: Sequence[str], *, as_json: bool) -> None:
    """Run an attempt and show its result. When a signal ends it, the last line is the command that goes on with the run.

    `words`, the command and its arguments, repeat the attempt. They are needed where it ends before its training: only then are the recipe
    and the changes of this attempt in the run folder.
    """
    crash.set_folder(options.run)
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            result = attempt(signals)
        except Stopped as stopped:
            assert signals.requested is not None
            again = words if stopped.result is None else ["resume", str(options.run)]
            command = shlex.join(["tfkit", *again, *_flags(options, as_json)])
            raise Stopped(f"{stopped}\n{command}", signals.requested) from None
        with suppress(console.ReaderGone):  # the gates judge all the same
            show_training_result(result, as_json)
    require_passed(result["gates"])


def show_dry_run(beginning: Beginning, device: str | None, threads: int | None, *, resume: bool, as_json: bool) -> None:
    """Show the plan of a training: its recipe on stdout, and what it would do on stderr; with --json all in one document."""
    if resume:
        raise UsageError("--dry-run plans a run that begins; leave --resume out")
    with command_session("plan", CarbonSection(enabled=False)) as work:
        from tfkit.engine.dry_run import dry_run

        plan = dry_run(beginning.decide, work, rows=_ROWS_SHOWN, device=device, threads=threads)
    rows = inspect.document(plan.inspection)
    if as_json:
        console.json({"schema_version": rows.pop("schema_version"), **plan.to_dict(), **rows})
        return
    for line in inspect.lines(plan.inspection, shutil.get_terminal_size().columns - 1):
        console.say("".join(text for text, _ in line))
    for text in plan.describe():
        console.say(text)
    console.result(plan.decided.text.rstrip("\n"))


def tuning_words(changes: Sequence[str], checkpoint: str | None, data: str | None) -> list[str]:
    """Return the key=value of a fine-tuning, with those of --from and --data."""
    words = [f"data.train=[{{path: {quoted(data)}}}]"] if data is not None else []  # first: data.train.0.columns can name columns
    return [*words, *changes, *([f"model.from={quoted(checkpoint)}"] if checkpoint is not None else [])]


def command_line() -> list[str]:
    """Return the command line of this process, for run.json."""
    return ["tfkit", *sys.argv[1:]]


def _flags(options: RunOptions, as_json: bool) -> list[str]:
    flags = [f"--{name}" for name, given in (("exact", options.exact), ("force", options.force), ("json", as_json)) if given]
    gates = [("fail-if", gate) for gate in options.fail_if]
    pairs: list[tuple[str, str | int | None]] = [("device", options.device), ("threads", options.threads), *gates]
    return [*flags, *(part for name, value in pairs if value is not None for part in (f"--{name}", str(value)))]

"""What pretrain, finetune and resume share: stop signals, the result, and the command that goes on with a stopped run."""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfkit.cli import crash
from tfkit.cli.results import show_training_result
from tfkit.engine.attempt import RunOptions
from tfkit.errors import Stopped
from tfkit.recipe import RecipeText
from tfkit.run.signals import StopSignals


def train(attempt: Callable[[StopSignals], dict[str, Any]], options: RunOptions, resume_command: str, *, as_json: bool) -> None:
    """Run an attempt and show its result. When a signal ends it, the last line is `resume_command`."""
    crash.set_folder(options.run)
    with StopSignals() as signals:
        try:
            result = attempt(signals)
        except Stopped as stopped:
            assert signals.requested is not None
            raise Stopped(f"{stopped}\n{resume_command}", signals.requested) from None
        show_training_result(result, as_json)


def command_line() -> list[str]:
    """The command line of this process, for run.json."""
    return ["tfkit", *sys.argv[1:]]


def resume_command(
    command: str, source: RecipeText | None, recipe: Sequence[str], words: Sequence[str], options: RunOptions, *, as_json: bool
) -> str:
    """The command line, quoted for a shell, that goes on with the run: the same recipe and words, or the run's own for a pipe."""
    if source is not None and not source.path.is_file():
        recipe = [str(options.run / "recipe.yaml")]
    flags = [f"--{name}" for name, given in (("exact", options.exact), ("force", options.force), ("json", as_json)) if given]
    pairs = (("device", options.device), ("threads", options.threads))
    values = [part for name, value in pairs if value is not None for part in (f"--{name}", str(value))]
    return shlex.join(["tfkit", command, *recipe, *words, "--run", str(options.run), "--resume", *flags, *values])

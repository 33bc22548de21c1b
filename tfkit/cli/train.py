"""The part that the commands of trainings share: recipe, stop signals, result, and the command that continues a stopped run."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tfkit import console
from tfkit.cli import crash
from tfkit.cli.options import Attempt, split_recipe, stage_names
from tfkit.cli.results import show_training_result
from tfkit.engine.attempt import RunOptions
from tfkit.engine.beginning import TrainingRequest
from tfkit.engine.gate import failed_gates
from tfkit.engine.many_runs.chain_plan import first_stage
from tfkit.engine.meeting import Meeting
from tfkit.engine.settings import quoted
from tfkit.errors import BudgetReached, Stopped, UsageError
from tfkit.parallel.ranks import Ranks
from tfkit.recipe import RecipeText, open_recipe
from tfkit.run.signals import StopSignals


def train(attempt: Callable[[StopSignals], dict[str, Any]], options: RunOptions, words: Sequence[str], *, as_json: bool) -> None:
    """Run an attempt and show its result. When a signal ends it, the last line is the command that continues the run.

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


def begin(request: TrainingRequest, words: Sequence[str], given: RunOptions, *, dry_run: bool, as_json: bool) -> None:
    """Train what is asked for, or show what that would do. `words`: the command and its arguments, without those of the run."""
    from tfkit.cli.dry_run import show_dry_run
    from tfkit.engine.many_runs import stages

    if dry_run:
        return show_dry_run(request, given, as_json)
    again = [*words, "--run", str(given.run), "--resume"]
    train(lambda signals: stages.train(request, given, console, signals), given, again, as_json=as_json)


def run_options(
    how: Attempt, here: Ranks, run: Path, resume: bool, fail_if: Sequence[str] | None = None, stages: str | None = None
) -> RunOptions:
    """Return the options of a command as the engine takes them; `here`: the place of this process among the ranks."""
    command = ["tfkit", *sys.argv[1:]]
    return RunOptions(
        run, resume, how.exact, how.force, how.device, how.threads, command, fail_if or (), stage_names(stages), Meeting(here)
    )


class TunedRecipe(NamedTuple):
    """The recipe and the changes of a training that may begin from a checkpoint."""

    source: RecipeText | None
    words: list[str]  # key=value, with those of --from and --data
    arguments: list[str]  # the recipe and the changes as they were given


def tuned_recipe(
    command: str, recipe: str | None, overrides: Sequence[str] | None, checkpoint: str | None, data: str | None, *, needed: bool = False
) -> TunedRecipe:
    """Open the recipe, if one is given, and join the changes with --from and --data, in a recipe with stages those of the first one.

    `needed`: raise UsageError where there is nothing to begin from.
    """
    chosen, changes = split_recipe(command, recipe, overrides)
    if needed and chosen is None and checkpoint is None and data is None:
        raise UsageError(f"{command}: which training? Give a RECIPE, or --from CKPT and --data F")
    source = open_recipe(chosen) if chosen is not None else None
    stage = first_stage(source)
    # The data come first: data.train.0.columns can name columns.
    words = [f"{stage}data.train=[{{path: {quoted(data)}}}]"] if data is not None else []
    words += [*changes, *([f"{stage}model.from={quoted(checkpoint)}"] if checkpoint is not None else [])]
    return TunedRecipe(source, words, [*([chosen] if chosen is not None else []), *changes])


def option_words(*given: tuple[str, str | int | None]) -> list[str]:
    """Return the options that are given, by name and value, as words of a command line."""
    return [word for name, value in given if value is not None for word in (f"--{name}", str(value))]


def _flags(options: RunOptions, as_json: bool) -> list[str]:
    flags = [f"--{name}" for name, given in (("exact", options.exact), ("force", options.force), ("json", as_json)) if given]
    ranks, stages = None if options.ranks.is_alone else options.ranks.size, ",".join(options.stages) or None
    gates = [("fail-if", gate) for gate in options.fail_if]
    return flags + option_words(("device", options.device), ("threads", options.threads), ("ranks", ranks), *gates, ("stages", stages))

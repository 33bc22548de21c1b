"""Code of all training commands: give each rank (process of --ranks N) its part, start the training, handle stop signals, and show the
result or, after a stop, the command to resume.
"""

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfkit import console
from tfkit.cli.options import Attempt, Training, option_words, stage_names
from tfkit.cli.program import set_crash_folder, start_ranks, words_of_command
from tfkit.cli.results import show, training_text
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.request.evaluation_settings import CodePermission
from tfkit.engine.request.gate import failed_gates
from tfkit.engine.request.training_request import TrainingRequest
from tfkit.engine.training_run.attempt import RunOptions, start_run
from tfkit.engine.training_run.ranks_of_command import RankConnection, Ranks, find_ranks
from tfkit.errors import BudgetReached, Stopped, UsageError, path_argument
from tfkit.run.signals import StopSignals


def join_training(attempt: Attempt, request: Callable[[], TrainingRequest] | None = None, *, planned: bool = False) -> Ranks | None:
    """Return the ranks of a training if this process is rank 0, which leads the training; None if this process has nothing left to do.

    With --ranks N, a process that is not a rank starts N processes of the same command and waits for them; it raises AlreadyReportedError
    with their exit code if one of them fails. Ranks other than rank 0 train to the end before they return None; they warn if the recipe of
    their own command line, which `request` reads, differs from that of rank 0. `planned`: the training is only planned, so no process is
    started, and rank 0 gets the `Ranks` that it would have in the training.
    """
    if planned:
        ranks = find_ranks()
        size = attempt.ranks or ranks.size
        return Ranks(size=size, local_size=ranks.local_size if ranks.size == size else size) if ranks.is_first else None
    resuming = [] if words_of_command[0] == "resume" or "--resume" in words_of_command else ["--resume"]
    if (started := start_ranks(attempt.ranks, shlex.join(["tfkit", *words_of_command, *resuming]))) is None or started.is_first:
        return started
    _follow(started, attempt.threads, request)
    return None


def _follow(ranks: Ranks, threads: int | None, request: Callable[[], TrainingRequest] | None) -> None:
    """Train as a rank other than rank 0, until the training ends. `request` reads the training that this rank's command line asks for."""
    from tfkit.engine.request.rank_checks import rank_threads
    from tfkit.engine.training_run.coordinator import follow

    set_crash_folder(None)
    own = None
    if request is not None:
        with contextlib.suppress(UsageError):  # the command lines of ranks other than rank 0 need not name a recipe
            own = request().given
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            follow(ranks, rank_threads(threads, ranks) or 1, console, signals, own)
        except Stopped as stopped:
            raise Stopped(str(stopped), signals.requested or stopped.exit_code - 128) from None


def run_training(attempt: Callable[[StopSignals], dict[str, Any]], options: RunOptions, words: Sequence[str], *, as_json: bool) -> None:
    """Call `attempt`, which trains, and show its result. If a signal or a budget stops it, the output ends with a command to continue it.

    The command is `tfkit resume`. If `attempt` was stopped before its first step, it is the original one, `words`, because the run folder
    does not contain the recipe and the changes to it yet.
    """
    set_crash_folder(options.run)
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            with options.connection.open():
                result = attempt(signals)
        except Stopped as stopped:
            resume_words = [*words] if stopped.result is None else ["resume", path_argument(options.run)]
            if isinstance(stopped, BudgetReached):
                key = stopped.larger.partition("=")[0]
                resume_words = [*(word for word in resume_words if not word.startswith(f"{key}=")), stopped.larger]
            elif signals.requested is not None:  # this rank received the signal; after another rank's, `stopped` has its exit code already
                stopped.exit_code = 128 + signals.requested
            command = shlex.join(["tfkit", *resume_words, *_flags(options, as_json, runs_code=stopped.runs_code)])
            stopped.args = (f"{stopped}\n{command}",)
            if stopped.result is not None and (as_json or isinstance(stopped, BudgetReached)):
                show(stopped.result, training_text, stopped, as_json=as_json)
            raise
        failed = failed_gates(result["gates"])
        show(result, training_text, failed, as_json=as_json)
    if failed is not None:
        raise failed


def start_training(
    open_request: Callable[[], TrainingRequest], words: Sequence[str], training: Training, minutes: float | None = None
) -> None:
    """Run the training of a command or, with --dry-run, show its plan. `words`: the command line without --run and --resume."""
    if (ranks := join_training(training.attempt, open_request, planned=training.dry_run)) is None:
        return
    request = open_request()
    is_named = request.source is not None or not training.dry_run  # False: a run is named after its data, which are not checked yet
    folder = training.run or Path("runs") / (request.run_name if is_named else "")
    options = to_run_options(training, ranks, folder, request, minutes)
    if training.dry_run:
        from tfkit.cli.dry_run import show_dry_run

        return show_dry_run(request, options, training.json)

    def train(signals: StopSignals) -> dict[str, Any]:
        if request.has_stages:
            from tfkit.engine.chains.stages import run_stages

            return run_stages(request, options, console, signals)
        return start_run(request, options, console, signals)

    run_training(train, options, [*words, "--run", str(folder), "--resume"], as_json=training.json)


def to_run_options(
    training: Training, ranks: Ranks, folder: Path, request: TrainingRequest | None = None, minutes: float | None = None
) -> RunOptions:
    """Convert the options of a training command to `RunOptions`, which tfkit/engine reads."""
    attempt = training.attempt
    return RunOptions(
        folder,
        RunForecaster(),
        resume=training.resume,
        exact=attempt.exact,
        force=attempt.force,
        device=attempt.device,
        threads=attempt.threads,
        command=["tfkit", *sys.argv[1:]],
        fail_if=training.fail_if or (),
        stages=stage_names(training.stages),
        connection=RankConnection(ranks, given=request.given if request is not None else None),
        code=CodePermission(every_file=attempt.allow_code),
        minutes=minutes,
        named=tuple(request.overrides) if request is not None else (),
    )


def _flags(options: RunOptions, as_json: bool, *, runs_code: bool) -> list[str]:
    code = runs_code or options.code.every_file  # even if the code is already allowed on this machine: the command may be run on another
    unverified = "--no-verify" in words_of_command
    given = {"exact": options.exact, "force": options.force, "allow-code": code, "no-verify": unverified, "json": as_json}
    flags = [f"--{name}" for name, is_given in given.items() if is_given]
    ranks, stages = None if options.ranks.is_alone else options.ranks.size, ",".join(options.stages) or None
    gates = [("fail-if", gate) for gate in options.fail_if]
    return flags + option_words(("device", options.device), ("threads", options.threads), ("ranks", ranks), *gates, ("stages", stages))

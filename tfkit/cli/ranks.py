"""The option --ranks N, with which a command starts N processes of itself (the ranks), and the part that each rank takes in a training."""

import contextlib
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfkit import console
from tfkit.cli.options import Attempt
from tfkit.cli.program import AlreadyReportedError, set_crash_folder, words_of_command
from tfkit.engine.training_run.ranks_of_command import Ranks, find_or_start, find_ranks
from tfkit.errors import Stopped, UsageError
from tfkit.run.signals import StopSignals, forwarded

if TYPE_CHECKING:
    from tfkit.engine.request.training_request import TrainingRequest


def join_training(attempt: Attempt, request: "Callable[[], TrainingRequest] | None" = None, *, planned: bool = False) -> Ranks | None:
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


def start_ranks(requested: int | None, again: str | None = None) -> Ranks | None:
    """Return the place of this process among the ranks; None if this process has started the ranks, and all of them have succeeded.

    Raises AlreadyReportedError if one of them failed. `again`: the command that continues the training, shown after the loss of a rank.
    """
    found = find_or_start(requested, words_of_command, forwarded, console.error, again)
    if isinstance(found, Ranks):
        return found
    if found:
        raise AlreadyReportedError(found)
    return None


def _follow(ranks: Ranks, threads: int | None, request: "Callable[[], TrainingRequest] | None") -> None:
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

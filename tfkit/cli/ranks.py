"""--ranks N: the command that starts the processes of all ranks, and the same command as it runs in each of these processes."""

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
    """Return the ranks of a training if this process is the first one, which leads it; None if this process has nothing left to do.

    With --ranks N, a process that is no rank starts N processes of the same command and waits for them. The other ranks follow the first
    to the end, and warn if the recipe of their own command, which `request` opens, differs from that of rank 0. Raises AlreadyReportedError
    with the exit code of started processes that failed. `planned`: the training is only planned, so that no process is started; the first
    rank gets the ranks that the training would have.
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
    """Return this process's view of the ranks; None if it has started them and all succeeded. Raises AlreadyReportedError if one failed.

    `again`: the command that continues after the loss of a rank.
    """
    found = find_or_start(requested, words_of_command, forwarded, console.error, again)
    if isinstance(found, Ranks):
        return found
    if found:
        raise AlreadyReportedError(found)
    return None


def _follow(ranks: Ranks, threads: int | None, request: "Callable[[], TrainingRequest] | None") -> None:
    """Train together with rank 0, which leads, until the training ends. `request`: returns the training that this rank was asked for."""
    from tfkit.engine.request.rank_checks import rank_threads
    from tfkit.engine.training_run.coordinator import follow

    set_crash_folder(None)
    own = None
    if request is not None:
        with contextlib.suppress(UsageError):  # only rank 0 needs a recipe
            own = request().given
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            follow(ranks, rank_threads(threads, ranks) or 1, console, signals, own)
        except Stopped as stopped:
            raise Stopped(str(stopped), signals.requested or stopped.exit_code - 128) from None

"""--ranks N: the processes of all ranks, started by this one; and a command that is itself one of them."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tfkit import console
from tfkit.cli import crash
from tfkit.errors import Stopped, UsageError
from tfkit.parallel.deal import PeerDoneError
from tfkit.parallel.launched_rank import watch_launcher, write_into
from tfkit.parallel.ranks import Ranks, find_ranks
from tfkit.parallel.workers import Workers
from tfkit.run.signals import StopSignals

if TYPE_CHECKING:
    from tfkit.engine.session import Session


def place_of_this_process(asked: int | None, threads: int | None, *, planned: bool = False) -> Ranks | None:
    """Return the place of this process among the ranks if it is to train; None if it has done its part.

    With --ranks N (`asked`) outside of any rank it starts N processes of this same command, and waits for them. A rank beside the first
    follows it. Raises AlreadyReportedError with the exit code of the processes that were started. `planned`: the training is only planned,
    and no process is started: return the place of rank 0 in it; None on a rank beside the first.
    """
    if planned:
        found = find_ranks()
        size = asked or found.size
        return Ranks(size=size, local_size=found.local_size if found.size == size else size) if found.is_first else None
    if (here := _this_rank(asked)) is None or here.is_first:
        return here
    _follow(here, threads)
    return None


def place_in_command(
    asked: int | None, follow: "Callable[[Session], object]", device: str | None, threads: int | None, alone: str = ""
) -> Ranks | None:
    """Return the place of this process if it leads a command without gradients; None if it has done its part.

    See `place_of_this_process`; a rank beside the first does its part by `follow`. `alone`: why this is for one process, if it is.
    """
    size = asked or find_ranks().size
    if alone and size > 1:
        raise UsageError(f"--ranks {size}: {alone}")
    if (here := _this_rank(asked)) is None or here.is_first:
        return here
    from tfkit.engine.session import following_session

    console.set_quiet(True)
    with (
        StopSignals(acknowledge=console.acknowledge) as signals,
        contextlib.suppress(PeerDoneError),
        following_session(here, signals, device, threads) as work,
        signals.at_once(),
    ):
        follow(work)
    return None


def _this_rank(asked: int | None) -> Ranks | None:
    """Return the place of this process; None if it has started the ranks, which have ended well. Raises AlreadyReportedError."""
    here = find_ranks()
    if asked is not None and not here.is_alone and asked != here.size:
        raise UsageError(
            f"--ranks {asked}: this process is already rank {here.rank} of {here.size}, started by torchrun or Slurm; leave it out"
        )
    if asked is not None and asked > 1 and here.is_alone:
        if code := _launch(asked):
            raise crash.AlreadyReportedError(code)
        return None
    watch_launcher()
    return here


def _launch(size: int) -> int:
    """Start the ranks, wait for them, and return the exit code."""
    command = [sys.executable, "-m", "tfkit", *crash.words]
    with tempfile.TemporaryDirectory(prefix="tfkit-ranks-") as folder:
        workers = Workers.start(command, size, Path(folder))
        try:
            with _passing_on(workers):
                code = workers.wait()
        finally:
            workers.kill()
        if (culprit := workers.culprit) is not None and not workers.has_reported(culprit):
            console.error(workers.report(culprit))
        return code


@contextlib.contextmanager
def _passing_on(workers: Workers) -> Iterator[None]:
    """In the block, pass stop signals on to the ranks, which save and end; those that are ignored on entry stay ignored."""

    def handle(number: int, frame: FrameType | None) -> None:
        workers.pass_on(number)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _follow(ranks: Ranks, threads: int | None) -> None:
    """Follow rank 0 to the end of the training."""
    from tfkit.engine.dealt_recipes import rank_threads
    from tfkit.engine.following import follow

    crash.set_folder(None)
    with StopSignals(acknowledge=console.acknowledge) as signals:
        try:
            follow(ranks, rank_threads(threads, ranks) or 1, console, signals, write_into)
        except Stopped as stopped:
            raise Stopped(str(stopped), signals.requested or stopped.exit_code - 128) from None

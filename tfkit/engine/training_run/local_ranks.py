"""The ranks of a command on this machine: found, started, watched and ended. Torch-free."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfkit.engine.training_run.meeting import Meeting
from tfkit.errors import PeerLostError, UsageError
from tfkit.parallel.launched_rank import watch_launcher
from tfkit.parallel.ranks import ONE_PROCESS as ONE_PROCESS
from tfkit.parallel.ranks import Ranks as Ranks
from tfkit.parallel.ranks import find_ranks as find_ranks
from tfkit.parallel.workers import Workers, on_loopback

_PATIENCE_SECONDS = 5.0  # for the exit of a rank whose connection is closed

ForwardSignals = Callable[[Callable[[int], None]], AbstractContextManager[None]]  # within the block, stop signals go to this function


@dataclass(frozen=True)
class EndedRanks:
    """The processes of all ranks, which have ended. `report`: on the one that failed, if it has not reported itself."""

    code: int
    report: str | None


def find_or_start(requested: int | None, words: Sequence[str], forwarding: ForwardSignals) -> Ranks | EndedRanks:
    """Return the rank of this process; or, if it is no rank and several are requested, start tfkit's processes and wait for their end.

    `words`: the command line of each process. Raises UsageError if this process is already one of another number of ranks.
    """
    ranks = find_ranks()
    if requested is not None and not ranks.is_alone and requested != ranks.size:
        raise UsageError(
            f"--ranks {requested}: this process is already rank {ranks.rank} of {ranks.size}, started by torchrun or Slurm; leave it out"
        )
    if requested is None or requested == 1 or not ranks.is_alone:
        watch_launcher()
        return ranks
    workers = Workers.start([sys.executable, "-m", "tfkit", *words], requested)
    try:
        with forwarding(workers.forward_signal):
            code = workers.wait()
        culprit = workers.culprit
        return EndedRanks(code, workers.report(culprit) if culprit is not None and not workers.has_reported(culprit) else None)
    finally:
        workers.kill()


@contextmanager
def own_ranks(size: int, run: Path, threads: int | None) -> Iterator[Meeting]:
    """Start `size` - 1 processes that follow this one, and yield their meeting.

    Raises UsageError for an invalid `size`, or if this process already has a process group; PeerLostError, with the end of its output, if
    one of them fails.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"ranks={size!r}: give a whole number from 1")
    if size == 1:
        yield Meeting()
        return
    import torch.distributed as dist

    if dist.is_initialized():
        raise UsageError("--ranks: this process is one of a process group of torch.distributed already; leave it out, or call from another")
    command = [sys.executable, "-m", "tfkit", "resume", str(run), *(["--threads", str(threads)] if threads is not None else [])]
    imports = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    workers = Workers.start(command, size, {**os.environ, "PYTHONPATH": imports}, first=1)

    def watch() -> None:
        if (lost := workers.lost()) is not None:
            raise PeerLostError(lost)

    try:
        on_loopback(os.environ)
        meeting = Meeting(Ranks(0, size, 0, size, port=workers.port), watch)
        with meeting.held():
            yield meeting
    except PeerLostError as error:
        lost = workers.lost(_PATIENCE_SECONDS)
        raise PeerLostError(f"{error}\n{lost}" if lost and lost != str(error) else str(error)) from error
    finally:
        workers.kill()

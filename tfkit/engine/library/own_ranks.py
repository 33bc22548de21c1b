"""The other ranks of a training of the library, of which this process is rank 0: they are started for a call, and end with it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfkit.engine.meeting import Meeting
from tfkit.errors import PeerLostError, UsageError
from tfkit.parallel.ranks import Ranks
from tfkit.parallel.workers import Workers, on_loopback

_PATIENCE_SECONDS = 5.0  # for the exit of a rank whose connection is closed


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

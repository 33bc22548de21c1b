"""Find or start the ranks of a command, connect and watch them, and end them. This module does not import torch."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit.engine.request.rank_checks import require_count
from tfkit.engine.request.training_request import RequestRecord
from tfkit.errors import PeerLostError, UsageError, argument, path_argument
from tfkit.parallel.ranks import ONE_PROCESS as ONE_PROCESS
from tfkit.parallel.ranks import Ranks as Ranks
from tfkit.parallel.ranks import find_ranks as find_ranks
from tfkit.parallel.workers import Workers, on_loopback, watch_launcher

if TYPE_CHECKING:
    import torch

    from tfkit.parallel.collectives import ProcessGroup
    from tfkit.parallel.ranks import Peers


class RankConnection:
    """Rank 0's connection to the other ranks. `watch` is called while rank 0 waits for them; it raises an error if one of them has failed.

    `given`: the request of rank 0's command; the other ranks get its hash, and warn if the request of their own command differs.
    """

    def __init__(self, ranks: Ranks = ONE_PROCESS, watch: Callable[[], None] | None = None, given: RequestRecord | None = None):
        self.ranks, self._watch, self._given = ranks, watch, given.sha256() if given else ""
        self._group: ProcessGroup | None = None

    def peers(self, device: "torch.device", say: Callable[[str], None] | None = None) -> "Peers":
        """Connect the ranks that train together, and return them; `say` reports which ranks are late.

        Raises UsageError for a device that several ranks cannot use, and PeerLostError if a rank does not connect in time.
        """
        from tfkit.parallel.ranks import ALONE
        from tfkit.training.device import use_device

        if self.ranks.is_alone:
            return ALONE
        if device.type not in ("cpu", "cuda"):
            raise UsageError(
                f"{argument('device', device)}: several ranks compute on processors or on NVIDIA's GPUs: give "
                f"{argument('device', 'cpu')}, or start one process"
            )
        use_device(device)
        return self._join(say)

    def meter_nodes(self, device: "torch.device", facts: dict[str, Any]) -> None:
        """On each other machine, let one rank measure the machine's energy. `facts`: the run's folder, id, etc. for `Meter.on_node`."""
        if self.ranks.nodes > 1:
            self.peers(device)
            self._join().announce({"metered": facts})  # read by `follow` of coordinator.py

    @contextmanager
    def open(self) -> Iterator[None]:
        """Return a context for a whole command. At its end, the other ranks end, too; after an error, only the connection is closed."""
        try:
            yield
            if not self.ranks.is_alone:
                from tfkit.engine.training_run.coordinator import announce_end

                announce_end(self._join())  # even if the run was already finished: torchrun waits for all ranks
        finally:
            if self._group is not None:
                self._group.close()

    def _join(self, say: Callable[[str], None] | None = None) -> "ProcessGroup":
        from tfkit.parallel.collectives import ProcessGroup  # imported here, since it imports torch

        self._group = self._group or ProcessGroup.join(self.ranks, watch=self._watch, say=say, given=self._given)
        return self._group


_PATIENCE_SECONDS = 5.0  # the longest wait for the exit code of a rank whose connection is closed

# A function that takes a handler, and returns a context in which stop signals call the handler with their number.
ForwardSignals = Callable[[Callable[[int], None]], AbstractContextManager[None]]


def find_or_start(
    requested: int | None, words: Sequence[str], forwarding: ForwardSignals, report: Callable[[str], None], again: str | None = None
) -> Ranks | int:
    """Return the rank of this process. But if several ranks are requested, and no launcher has started this process as one of them, start
    the processes of all ranks, wait for their end, and return the exit code.

    `words`: the arguments of tfkit in each process. `forwarding`: passes stop signals on to the processes. `report` is called with the
    end and output of a failed rank, unless it has shown its error. `again`: the command that continues a run that lost a rank. Raises
    UsageError if this process is a rank already, and the number of ranks is not the requested one.
    """
    ranks = find_ranks()
    if requested is not None and not ranks.is_alone and requested != ranks.size:
        raise UsageError(
            f"{argument('ranks', requested)}: this process is already rank {ranks.rank} of {ranks.size}, started by torchrun or "
            "Slurm; leave it out"
        )
    if requested is None or requested == 1 or not ranks.is_alone:
        if not ranks.is_alone:
            watch_launcher()
        return ranks
    workers = Workers.start([sys.executable, "-m", "tfkit", *words], requested)
    try:
        with forwarding(workers.forward_signal):
            code = workers.wait()
        if (culprit := workers.culprit) is not None and not workers.has_reported(culprit):
            report(workers.report(culprit) + (f"\n{again}" if again and code == PeerLostError.exit_code else ""))
        return code
    finally:
        workers.kill()


@contextmanager
def local_ranks(size: int, run: Path, threads: int | None) -> Iterator[RankConnection]:
    """Start `size` - 1 ranks, each of `threads` threads, that train with this process, rank 0; yield the connection to them.

    Raises UsageError for an invalid `size`, or if this process already has a process group; PeerLostError if one of the processes fails.
    """
    require_count("ranks", size)
    if size == 1:
        yield RankConnection()
        return
    import torch.distributed as dist

    if dist.is_initialized():
        raise UsageError(
            f"{argument('ranks')}: this process is one of a process group of torch.distributed already; leave it out, or call from another"
        )
    command = [sys.executable, "-m", "tfkit", "resume", path_argument(run), *(["--threads", str(threads)] if threads is not None else [])]
    imports = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    workers = Workers.start(command, size, {**os.environ, "PYTHONPATH": imports}, first=1)

    def watch() -> None:
        if (lost := workers.lost()) is not None:
            raise PeerLostError(lost)

    try:
        on_loopback(os.environ)
        connection = RankConnection(Ranks(0, size, 0, size, port=workers.port), watch)
        with connection.open():
            yield connection
    except PeerLostError as error:
        lost = workers.lost(_PATIENCE_SECONDS)
        raise PeerLostError(f"{error}\n{lost}" if lost and lost != str(error) else str(error)) from error
    finally:
        workers.kill()

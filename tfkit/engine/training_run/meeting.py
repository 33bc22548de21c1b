"""The ranks of a command: they join at its first training, and stay together for later ones, such as stages and trials."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tfkit.engine.request.given import Given
from tfkit.errors import PeerLostError, UsageError
from tfkit.parallel.ranks import ONE_PROCESS, Ranks

if TYPE_CHECKING:
    import torch

    from tfkit.parallel.agreement import Peers
    from tfkit.parallel.collectives import ProcessGroup


class Meeting:
    """Rank 0's connection to the ranks. `watch`, called while it waits for the others, may raise an error if they will not come.

    `given`: the recipe of its command, which is trained whatever that of the others is.
    """

    def __init__(self, ranks: Ranks = ONE_PROCESS, watch: Callable[[], None] | None = None, given: Given | None = None):
        self.ranks, self._watch, self._given = ranks, watch, given
        self._group: ProcessGroup | None = None

    def peers(self, device: "torch.device", say: Callable[[str], None] | None = None) -> "Peers":
        """Return the ranks that train together; `say` reports which are late.

        Raises UsageError for a device that several ranks cannot use, PeerLostError.
        """
        from tfkit.parallel.agreement import ALONE
        from tfkit.training.device import use_device

        if self.ranks.is_alone:
            return ALONE
        if device.type not in ("cpu", "cuda"):
            raise UsageError(
                f"--device {device}: several ranks compute on processors or on NVIDIA's GPUs: give --device cpu, or start one process"
            )
        use_device(device)
        return self._join(say)

    def meter_nodes(self, device: "torch.device", facts: dict[str, Any]) -> None:
        """Let a rank of each other machine measure its energy, with the `facts` of rank 0's meter."""
        if self.ranks.nodes > 1:
            self.peers(device)
            self._join().announce({"metered": facts})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Enclose the command: at its end the other ranks are released. After an error they notice that rank 0 is gone."""
        try:
            yield
            if not self.ranks.is_alone:
                group = self._join()  # torchrun waits for all ranks, even if the run was already finished
                group.announce({"finished": True})
                with suppress(PeerLostError):  # a rank that has ended meanwhile, as by a signal, does not affect the result
                    group.agree(0)
        finally:
            if self._group is not None:
                self._group.close()

    def _join(self, say: Callable[[str], None] | None = None) -> "ProcessGroup":
        from tfkit.parallel.collectives import ProcessGroup  # which imports torch

        self._group = self._group or ProcessGroup.join(
            self.ranks, watch=self._watch, say=say, given=self._given.sha256() if self._given else ""
        )
        return self._group

"""The meeting of the ranks of a command, at its first training: they stay together for those that follow, as stages and trials do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tfkit.errors import PeerLostError, UsageError
from tfkit.parallel.ranks import ONE_PROCESS, Ranks

if TYPE_CHECKING:
    import torch

    from tfkit.parallel.agreement import Peers
    from tfkit.parallel.collectives import ProcessGroup


class Meeting:
    """The ranks as rank 0 has them. `watch`, called while it waits for the others, may raise an error: that they do not come."""

    def __init__(self, ranks: Ranks = ONE_PROCESS, watch: Callable[[], None] | None = None):
        self.ranks, self._watch = ranks, watch
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
        return self._joined(say)

    def meter_nodes(self, device: "torch.device", facts: dict[str, Any]) -> None:
        """Let a rank of each other machine measure its energy: `facts` are those of rank 0's meter."""
        if self.ranks.nodes > 1:
            self.peers(device)
            self._joined().announce({"metered": facts})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Enclose the command: at its end the other ranks may end, too. After an error they find rank 0 gone."""
        try:
            yield
            if not self.ranks.is_alone:
                group = self._joined()  # torchrun waits for all, also where the run was finished already
                group.announce({"finished": True})
                with suppress(PeerLostError):  # one that ended by itself meanwhile, as by a signal, takes nothing from what is done
                    group.agree(0)
        finally:
            if self._group is not None:
                self._group.close()

    def _joined(self, say: Callable[[str], None] | None = None) -> "ProcessGroup":
        from tfkit.parallel.collectives import ProcessGroup  # which imports torch

        self._group = self._group or ProcessGroup.join(self.ranks, watch=self._watch, say=say)
        return self._group

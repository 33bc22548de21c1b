"""The meeting of the ranks of a training, once each has loaded torch."""

import torch

from tfkit.errors import UsageError
from tfkit.parallel.agreement import ALONE, Peers
from tfkit.parallel.collectives import ProcessGroup
from tfkit.parallel.ranks import Ranks


def meet(ranks: Ranks, device: torch.device) -> Peers:
    """Return the ranks that train together. Raises UsageError for a device that several ranks cannot use, PeerLostError."""
    if ranks.is_alone:
        return ALONE
    if device.type != "cpu":
        raise UsageError(f"--device {device}: several ranks compute on processors only, for now: give --device cpu, or start one process")
    return ProcessGroup.join(ranks)


def dismiss(ranks: Ranks) -> None:
    """Let the other ranks end, as rank 0 of a run that is finished already: torchrun waits for all. Raises PeerLostError."""
    if ranks.is_alone:
        return
    group = ProcessGroup.join(ranks)
    group.announce({"finished": True})
    with group.to_the_end(()):
        pass

"""The decisions and sums that the ranks of a training make together. With one process each is an identity."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from tfkit.parallel.ranks import ONE_PROCESS, Ranks


class PeerOutOfMemoryError(MemoryError):
    """The memory of another rank did not hold its micro-batch: all of them try it again with smaller ones."""


class Peers(Protocol):
    """The ranks of a training. Each method is called by all of them, in the same order."""

    ranks: Ranks

    def agree(self, code: int) -> int:
        """Return the largest of all ranks' numbers."""

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the sums over all ranks of counts with the same names."""

    def in_order(self, parts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the numbers of all ranks' micro-batches, by the index of the micro-batch in the step."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks; a rank without a gradient that another has counts as zero."""

    def fitting(self) -> AbstractContextManager[None]:
        """Enclose work that may end the memory of one rank: PeerOutOfMemoryError is then raised on all others, so that they repeat it."""

    def go_on(self) -> None:
        """Find out, within `fitting`, whether the memory of another rank has ended: before work that all ranks do together."""


class Alone:
    """One process."""

    ranks = ONE_PROCESS

    def agree(self, code: int) -> int:
        """Return the number."""
        return code

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the counts."""
        return dict(counts)

    def in_order(self, parts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the parts."""
        return [dict(part) for part in parts]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave the gradients as they are."""

    def fitting(self) -> AbstractContextManager[None]:
        """Enclose nothing."""
        return contextlib.nullcontext()

    def go_on(self) -> None:
        """Do nothing."""


ALONE = Alone()

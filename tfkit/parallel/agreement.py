"""The decisions and sums that the ranks of a training make together. With one process each is an identity."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from tfkit.parallel.ranks import ONE_PROCESS, Ranks


class RankOutOfMemoryError(MemoryError):
    """A rank ran out of memory, and all ranks know it: each raises this error, and may repeat the work with smaller micro-batches."""


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
        """Enclose work in which a rank may run out of memory: all ranks then raise RankOutOfMemoryError, and repeat the work together."""

    def go_on(self) -> None:
        """Raise RankOutOfMemoryError, within `fitting`, if another rank has run out of memory. Called before each collective."""


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

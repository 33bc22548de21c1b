"""Decisions and sums that the ranks of a training make together. With a single process, each is an identity."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from tfkit.parallel.ranks import ONE_PROCESS, Ranks


class RankOutOfMemoryError(MemoryError):
    """A rank ran out of memory, and all ranks know it: each raises this error, and may repeat the work with smaller micro-batches."""


class Peers(Protocol):
    """The ranks of a training. All ranks call the methods in the same order."""

    ranks: Ranks

    def agree(self, code: int) -> int:
        """Return the maximum of `code` over all ranks."""

    def total(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the sum of each count over all ranks, which have the same names."""

    def in_order(self, parts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the values of all ranks' micro-batches, ordered by the micro-batch's index in the step."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all ranks; a gradient that a rank lacks counts as zero."""

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

"""Compute batches one after another, or divide them among the ranks of a command (common_work.py). This module does not import torch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class PeerDoneError(Exception):
    """Another rank ended the common work early on purpose: the results are no longer needed."""

    exit_code = 0


class RankMap(Protocol):
    """A `map` whose calls are divided among all ranks. Each rank gets all results, in the items' order. Results must be JSON values."""

    def __call__(self, compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Yield the result of `compute` for each item. All ranks pass the same items."""


def serial_map(compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Yield the result of `compute` for each item, computed by this process: the `RankMap` of a command with a single rank."""
    return map(compute, items)


@dataclass(frozen=True)
class BatchWork:
    """The way in which batches are computed without gradients: `deal` divides them among the ranks.

    No batch is started once `should_stop()` returns True. `progress(n)` is called when n more rows, texts or
    tokens are done, in the unit that the caller counts.
    """

    progress: Callable[[int], object] = lambda _: None
    should_stop: Callable[[], bool] | None = None
    deal: RankMap = serial_map

    def is_stopped(self) -> bool:
        """Whether no more batches should be started."""
        return self.should_stop is not None and self.should_stop()


UNWATCHED = BatchWork()  # on one rank, without progress and stop requests

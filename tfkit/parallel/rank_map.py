"""Compute a list of batches in turn, or deal them to the ranks of a command (common_work.py). Torch-free."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class PeerDoneError(Exception):
    """Another rank ended the common work early on purpose: the results are no longer needed."""

    exit_code = 0


class RankMap(Protocol):
    """A `map` whose calls are dealt to all ranks. Each rank gets all results, in order; they must be JSON values."""

    def __call__(self, compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Yield the result for each item. All ranks have the same items."""


def serial_map(compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Yield the result for each item, computed by this process alone: the `RankMap` of a command without further ranks."""
    return map(compute, items)


@dataclass(frozen=True)
class BatchWork:
    """How batches without gradients are computed: distributed by `deal`; no further batch starts once `should_stop` is true.

    `progress(n)` reports n more rows, texts, tokens or whatever is counted.
    """

    progress: Callable[[int], object] = lambda _: None
    should_stop: Callable[[], bool] | None = None
    deal: RankMap = serial_map

    def is_stopped(self) -> bool:
        """Whether no further batch is to be started."""
        return self.should_stop is not None and self.should_stop()


UNWATCHED = BatchWork()

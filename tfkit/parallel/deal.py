"""A list of batches that are computed in turn, or dealt to the ranks of a command (common_work.py). Torch-free."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class PeerDoneError(Exception):
    """Another rank ended the common work before its end, as it was meant to: nobody reads the results any more."""

    exit_code = 0


class Deal(Protocol):
    """A `map` whose calls are dealt to all ranks; the results, which JSON can hold, come in order to each of them."""

    def __call__(self, compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Yield the result for each item. All ranks have the same items."""


def in_turn(compute: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """Implement `Deal` for one process."""
    return map(compute, items)


@dataclass(frozen=True)
class BatchWork:
    """How batches without gradients are computed: shared out by `deal`, and none begins once `should_stop` is true.

    `progress(n)` reports n more rows, texts, tokens or whatever is counted.
    """

    progress: Callable[[int], object] = lambda _: None
    should_stop: Callable[[], bool] | None = None
    deal: Deal = in_turn

    def is_stopped(self) -> bool:
        """Whether the next batch is not to be begun."""
        return self.should_stop is not None and self.should_stop()


UNWATCHED = BatchWork()

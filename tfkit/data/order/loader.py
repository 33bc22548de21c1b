"""The batches of a run: step n is a function of n alone, so that resuming is a seek."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.batch_sizes import BatchSizes

Batch = TypeVar("Batch")


class Rows(Protocol):
    """Rows in a new order each epoch: PackedRows of a stream, ExampleRows, and the other rows that objectives read."""

    def __len__(self) -> int:
        """Rows an epoch, the same in every one."""

    @property
    def mean_tokens(self) -> float:
        """Tokens a row, over an epoch."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's rows, in the order in which they are read."""

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the rows of these numbers, as they are in these epochs, for an objective to collate."""


class StepLoader(Protocol[Batch]):
    """The batches of a run: a Loader, or what samples them."""

    rows: Rows
    sizes: BatchSizes
    micro_batch_size: int
    rank: int  # of the micro-batches of each step it gives those from `rank` on, in steps of `ranks`
    ranks: int

    def step(self, n: int) -> list[Batch]:
        """Return the micro-batches of step n, from 0."""

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of step n, (B,)."""

    def observed(self) -> dict[str, float]:
        """Return numbers about the rows of the latest step for the log."""

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what step n needs of the steps before it, for a checkpoint: tensors, and the rest as JSON has it."""

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""


class Loader(Generic[Batch]):
    """The rows of each step, in the order of their epochs. A step may span epochs: no row is lost or read twice at the border."""

    def __init__(
        self, rows: Rows, collate: Callable[[Any], Batch], batch_size: int | BatchSizes, micro_batch_size: int, *, ahead: bool = False
    ):
        """`collate` turns the rows of a micro-batch into the objective's batch. `ahead`: a thread prepares each step while the one before
        it is taken. Raises ValueError on sizes that do not divide.
        """
        self.sizes = batch_size if isinstance(batch_size, BatchSizes) else BatchSizes(batch_size)
        if self.sizes.unit % micro_batch_size:
            raise ValueError(f"micro_batch_size {micro_batch_size} does not divide batch_size {self.sizes.unit}")
        self.rows, self.collate, self.micro_batch_size = rows, collate, micro_batch_size
        self.rank, self.ranks = 0, 1  # of the micro-batches of each step this loader gives those from `rank` on, in steps of `ranks`
        self._thread = ThreadPoolExecutor(1, "next step") if ahead else None
        self._next: tuple[tuple[int, ...], Future[list[Batch]]] | None = None

    def step(self, n: int) -> list[Batch]:
        """Return the micro-batches of step n, from 0; of several ranks those of this one."""
        if self._thread is None:
            return self._collated(n)
        parts = self.micro_batch_size, self.rank, self.ranks
        asked, prepared = self._next or (None, None)
        batches = prepared.result() if prepared is not None and asked == (n, *parts) else self._collated(n)
        self._next = (n + 1, *parts), self._thread.submit(self._collated, n + 1)
        return batches

    def _collated(self, n: int) -> list[Batch]:
        epochs, numbers = self._places(n)
        starts = range(self.rank * self.micro_batch_size, len(numbers), self.ranks * self.micro_batch_size)
        micro_batches = (slice(start, start + self.micro_batch_size) for start in starts)
        return [self.collate(self.rows.gather(epochs[here], numbers[here])) for here in micro_batches]

    def observed(self) -> dict[str, float]:
        """Return nothing: rows that are read have no numbers for the log."""
        return {}

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing: step n follows from n alone."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore nothing."""

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of step n, (B,)."""
        return self._places(n)[1]

    def epochs(self, n: int) -> NDArray[np.int64]:
        """Return the epoch of each row of step n, (B,)."""
        return self._places(n)[0]

    def _places(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epochs and the numbers of the rows of step n."""
        place, missing = self.sizes.before(n), self.sizes.size(n)
        epochs, numbers = [], []
        while missing:
            epoch, i = divmod(place, len(self.rows))
            part = self.rows.order(epoch)[i : i + missing]
            epochs.append(np.full(len(part), epoch))
            numbers.append(part)
            place, missing = place + len(part), missing - len(part)
        return np.concatenate(epochs), np.concatenate(numbers)

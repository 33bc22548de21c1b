"""The batches of a run. Step n is a function of n alone, so resuming needs no replay."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.batch_sizes import BatchSizes

Batch = TypeVar("Batch")


class Rows(Protocol):
    """Rows in a new order each epoch: PackedRows, ExampleRows, and the other kinds of rows that objectives read."""

    def __len__(self) -> int:
        """The number of rows in an epoch, the same in every epoch."""

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens in a row, over an epoch."""

    @property
    def longest(self) -> int:
        """The number of tokens in the longest row."""

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the row numbers of an epoch, in reading order: (len(self),)."""

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> Any:
        """Return the rows with these numbers, as drawn in these epochs, for an objective to collate."""


class StepLoader(Protocol[Batch]):
    """The batches of a run: a Loader, or a loader that samples rollouts."""

    rows: Rows
    sizes: BatchSizes
    micro_batch_size: int
    rank: int  # this loader returns the micro-batches rank, rank + ranks, rank + 2 ranks, ... of each step
    ranks: int

    def step(self, n: int) -> list[Batch]:
        """Return this rank's micro-batches of step n, counted from 0."""

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of step n, (B,)."""

    def observed(self) -> dict[str, float]:
        """Return quantities of the rows of the latest step, by name, for the log."""

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state that step n needs from earlier steps, for a checkpoint: tensors, and values for JSON."""

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""


class Loader(Generic[Batch]):
    """The rows of each step, epoch after epoch. A step may span epochs: no row is lost or read twice at the boundary."""

    def __init__(
        self, rows: Rows, collate: Callable[[Any], Batch], batch_size: int | BatchSizes, micro_batch_size: int, *, ahead: bool = False
    ):
        """`collate` turns the rows of a micro-batch into the objective's batch. `ahead`: a thread prepares the next step during each step.

        Raises ValueError if the micro-batch size does not divide the batch size.
        """
        self.sizes = batch_size if isinstance(batch_size, BatchSizes) else BatchSizes(batch_size)
        if self.sizes.unit % micro_batch_size:
            raise ValueError(f"micro_batch_size {micro_batch_size} does not divide batch_size {self.sizes.unit}")
        self.rows, self.collate, self.micro_batch_size = rows, collate, micro_batch_size
        self.rank, self.ranks = 0, 1
        self._thread = ThreadPoolExecutor(1, "next step") if ahead else None
        self._next: tuple[tuple[int, ...], Future[list[Batch]]] | None = None

    def step(self, n: int) -> list[Batch]:
        """Return this rank's micro-batches of step n, counted from 0."""
        if self._thread is None:
            return self._collate_step(n)
        layout = self.micro_batch_size, self.rank, self.ranks
        key, prepared = self._next or (None, None)
        batches = prepared.result() if prepared is not None and key == (n, *layout) else self._collate_step(n)
        self._next = (n + 1, *layout), self._thread.submit(self._collate_step, n + 1)
        return batches

    def _collate_step(self, n: int) -> list[Batch]:
        epochs, numbers = self._locate(n)
        starts = range(self.rank * self.micro_batch_size, len(numbers), self.ranks * self.micro_batch_size)
        micro_batches = (slice(start, start + self.micro_batch_size) for start in starts)
        return [self.collate(self.rows.gather(epochs[rows], numbers[rows])) for rows in micro_batches]

    def observed(self) -> dict[str, float]:
        """Return nothing: rows that are read from a source have nothing to log."""
        return {}

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing: step n depends on n alone."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore nothing."""

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of step n, (B,)."""
        return self._locate(n)[1]

    def epochs(self, n: int) -> NDArray[np.int64]:
        """Return the epoch of each row of step n, (B,)."""
        return self._locate(n)[0]

    def _locate(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the number of each row of step n, both (B,)."""
        position, missing = self.sizes.before(n), self.sizes.size(n)
        epochs, numbers = [], []
        while missing:
            epoch, i = divmod(position, len(self.rows))
            part = self.rows.order(epoch)[i : i + missing]
            epochs.append(np.full(len(part), epoch))
            numbers.append(part)
            position, missing = position + len(part), missing - len(part)
        return np.concatenate(epochs), np.concatenate(numbers)

"""The batches of a run: step n is a function of n alone, so that resuming is a seek."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from tfkit.data.packing import PackedBatch, PackedRows

Batch = TypeVar("Batch")


class Loader(Generic[Batch]):
    """Rows in the order of their epochs, `batch_size` a step. A step may span epochs: no row is lost or read twice at the border."""

    def __init__(self, rows: PackedRows, collate: Callable[[PackedBatch], Batch], batch_size: int, micro_batch_size: int):
        """`collate` makes of the arrays of a micro-batch what the objective wants. Raises ValueError on sizes that do not divide."""
        if batch_size % micro_batch_size:
            raise ValueError(f"micro_batch_size {micro_batch_size} does not divide batch_size {batch_size}")
        self.rows, self.collate = rows, collate
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every row is read once; not a whole number where the batch size does not divide the rows."""
        return len(self.rows) / self.batch_size

    def step(self, n: int) -> list[Batch]:
        """The micro-batches of step n, from 0."""
        numbers = self.numbers(n)
        starts = range(0, self.batch_size, self.micro_batch_size)
        return [self.collate(self.rows.gather(numbers[start : start + self.micro_batch_size])) for start in starts]

    def numbers(self, n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The numbers of the rows of step n, (batch_size,)."""
        place, missing = n * self.batch_size, self.batch_size
        parts = []
        while missing:
            epoch, i = divmod(place, len(self.rows))
            part = self.rows.order(epoch)[i : i + missing]
            parts.append(part)
            place, missing = place + len(part), missing - len(part)
        return np.concatenate(parts)

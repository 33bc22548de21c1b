"""The batches of a run. Step n's batch depends on rows, batch sizes and n alone, so a resumed run does not read earlier steps again."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch = TypeVar("Batch")


class BatchSizes:
    """The number of rows in each step: constant, or ramped up (GPT-3, arXiv 2005.14165, appendix B).

    The batch grows from `start` linearly with the rows read so far, in multiples of `start`, and is full after at least `ramp_rows` rows.
    The ramp reads a multiple of `full` rows in all, so that rows grouped into full batches (by length) stay together. The sizes are stored
    as a table of levels (successive steps of one size), so that no method iterates over steps.
    """

    def __init__(self, full: int, start: int | None = None, ramp_rows: float = 0.0):
        """`start`: None for full batches from the first step on. Raises ValueError if `full` is not a multiple of `start`."""
        self.full = full
        self.unit = start or full  # the size of each step is a multiple of this number of rows
        if full % self.unit:
            raise ValueError(f"the batch starts with {start} rows, which do not divide {full}")
        self._sizes: list[int] = []
        self._first_step: list[int] = []  # the first step of each level
        self._first_row: list[int] = []  # the number of rows that the steps before each level read
        steps = rows = 0
        for size, count in (*_levels(self.unit, full, ramp_rows), (full, 0)):
            self._sizes.append(size)
            self._first_step.append(steps)
            self._first_row.append(rows)
            steps, rows = steps + count, rows + size * count

    def size(self, step: int) -> int:
        """Return the number of rows in step `step`, counted from 0."""
        return self._sizes[bisect_right(self._first_step, step) - 1]

    def before(self, step: int) -> int:
        """Return the total number of rows in the steps before `step`."""
        level = bisect_right(self._first_step, step) - 1
        return self._first_row[level] + (step - self._first_step[level]) * self._sizes[level]

    def steps(self, rows: float) -> int:
        """Return the smallest number of steps, from step 0 on, that read at least `rows` rows."""
        level = max(0, bisect_left(self._first_row, rows) - 1)
        return self._first_step[level] + math.ceil((rows - self._first_row[level]) / self._sizes[level])


def _levels(start: int, full: int, ramp_rows: float) -> list[tuple[int, int]]:
    """Return the ramp's batch sizes, multiples of `start` below `full`, each with the number of steps until the ramp reaches the next."""
    most = full // start
    levels: list[tuple[int, int]] = []
    rows = 0
    for factor in range(1, most):
        size = factor * start
        count = max(0, math.ceil((ramp_rows * factor / (most - 1) - rows) / size))
        levels.append((size, count))
        rows += size * count
    rest = -rows % full  # rows to the next multiple of `full`: one more step at the level whose size is `rest` reads them
    return [(size, count + (size == rest)) for size, count in levels]


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
        """Return the rows with these row numbers, as drawn for these epochs, for an objective to collate. `epochs`, `numbers`: (B,)."""


class StepLoader(Protocol[Batch]):
    """The batches of a run. Loaders that sample completions from the model override `observed`, `state` and `restore`; others do not."""

    rows: Rows
    sizes: BatchSizes
    micro_batch_size: int
    rank: int  # this loader returns the micro-batches rank, rank + ranks, rank + 2 ranks, ... of each step
    ranks: int

    def step(self, n: int) -> list[Batch]:
        """Return this rank's micro-batches of step n, counted from 0."""

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the row numbers of step n: (B,)."""

    def observed(self) -> dict[str, float]:
        """Return quantities measured in the latest step's rows, by name, for the log."""
        return {}

    def state(self, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state of earlier steps that step n needs, to save it in a checkpoint: tensors by name, and values for state.json."""
        return {}, {}

    def restore(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, when a run is resumed."""
        return


class Loader(StepLoader[Batch]):
    """The batches of a run that reads its rows epoch after epoch. A step may end one epoch and begin the next without losing a row."""

    def __init__(
        self, rows: Rows, collate: Callable[[Any], Batch], batch_size: int | BatchSizes, micro_batch_size: int, *, ahead: bool = False
    ):
        """`collate` turns the rows of a micro-batch into the objective's batch. `ahead`: a thread prepares the next step's batches.

        Raises ValueError if the micro-batch size does not divide the batch size, or the first size of a ramp.
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

    def numbers(self, n: int) -> NDArray[np.int64]:
        """Return the row numbers of step n: (B,)."""
        return self._locate(n)[1]

    def epochs(self, n: int) -> NDArray[np.int64]:
        """Return the epoch of each row of step n: (B,)."""
        return self._locate(n)[0]

    def _locate(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epoch and the row number of each row of step n: both (B,)."""
        position, missing = self.sizes.before(n), self.sizes.size(n)
        epochs, numbers = [], []
        while missing:
            epoch, i = divmod(position, len(self.rows))
            part = self.rows.order(epoch)[i : i + missing]
            epochs.append(np.full(len(part), epoch))
            numbers.append(part)
            position, missing = position + len(part), missing - len(part)
        return np.concatenate(epochs), np.concatenate(numbers)

"""The batch size of each step: constant, or ramped up (GPT-3, arXiv 2005.14165, appendix B). A pure function of the step."""

import math
from bisect import bisect_left, bisect_right


class BatchSizes:
    """The number of rows in each step. A ramp is stored as a table of its levels, so that no method iterates over steps.

    The batch grows from `start` linearly with the rows read so far, in multiples of `start`, and is full after `ramp_rows` rows. The ramp
    reads a multiple of `full` rows in all, so that rows grouped into full batches (by length) stay together.
    """

    def __init__(self, full: int, start: int | None = None, ramp_rows: float = 0.0):
        """`start` None: full batches from the first step. Raises ValueError if `full` is not a multiple of `start`."""
        self.full = full
        self.unit = start or full  # every size is a multiple of it
        if full % self.unit:
            raise ValueError(f"the batch starts with {start} rows, which do not divide {full}")
        self._sizes: list[int] = []
        self._first_step: list[int] = []  # of each level (a run of steps of one size)
        self._first_row: list[int] = []  # rows that the steps before the level read
        steps = rows = 0
        for size, count in _levels(self.unit, full, ramp_rows):
            self._sizes.append(size)
            self._first_step.append(steps)
            self._first_row.append(rows)
            steps, rows = steps + count, rows + size * count
        self._sizes.append(full)
        self._first_step.append(steps)
        self._first_row.append(rows)

    def size(self, step: int) -> int:
        """Return the number of rows in step `step`, counted from 0."""
        return self._sizes[bisect_right(self._first_step, step) - 1]

    def before(self, step: int) -> int:
        """Return the total number of rows in the steps before `step`."""
        level = bisect_right(self._first_step, step) - 1
        return self._first_row[level] + (step - self._first_step[level]) * self._sizes[level]

    def steps(self, rows: float) -> int:
        """Return the smallest number of steps that read at least this many rows."""
        level = max(0, bisect_left(self._first_row, rows) - 1)
        return self._first_step[level] + math.ceil((rows - self._first_row[level]) / self._sizes[level])


def _levels(start: int, full: int, ramp_rows: float) -> list[tuple[int, int]]:
    """Return the batch sizes of the ramp, each with its number of steps. Size j * start begins where the linear ramp reaches it."""
    most = full // start
    levels: list[tuple[int, int]] = []
    rows = 0
    for factor in range(1, most):
        size = factor * start
        count = max(0, math.ceil((ramp_rows * factor / (most - 1) - rows) / size))
        levels.append((size, count))
        rows += size * count
    rest = -rows % full  # the ramp gets one more step of this size
    return [(size, count + (size == rest)) for size, count in levels]

"""The order in which an epoch reads the rows of weighted sources: a function of (seed, epoch) alone.

A weight of 2.3 reads every row of a source twice an epoch, and a random three tenths of its rows once more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import EpochCache, permutation
from tfkit.errors import DataError

MOST_ROWS = 100_000_000  # that a weight makes of fewer: an epoch's order takes 24 bytes a row while it is drawn


class WeightedOrder:
    """Rows of several sources under numbers that run through all of them. `len()` is the rows an epoch, the same in every epoch."""

    def __init__(self, sources: Sequence[tuple[str, float, int]], seed: int, *, distinct: bool = False):
        """`sources`: name, weight and number of rows. `distinct`: a row that is read again in an epoch has another number then.

        Raises DataError if a weight gives no row an epoch, or too many.
        """
        self._seed = seed
        self._counts = np.array([rows for _, _, rows in sources], np.int64)
        self.readings = [readings_of(name, weight, rows) for name, weight, rows in sources]  # of each source: of all rows, and of some
        self._strides = [rows * distinct for _, _, rows in sources]  # from a reading's numbers to the next one's
        used = [rows + copies * stride for rows, (copies, _), stride in zip(self._counts, self.readings, self._strides, strict=True)]
        self._first = np.concatenate([[0], np.cumsum(used)])  # number of each source's first row
        self._orders = EpochCache(lambda epoch: self.draw(np.random.PCG64([self._seed, epoch])))

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def rows(self) -> list[int]:
        """Rows an epoch, of each source."""
        return [copies * int(count) + extra for count, (copies, extra) in zip(self._counts, self.readings, strict=True)]

    def __getitem__(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of an epoch, in the order in which they are read: (len(self),)."""
        return self._orders[epoch]

    def draw(self, bits: np.random.PCG64) -> NDArray[np.int64]:
        """Return each row's number as often as its weight says, in a random order."""
        numbers = []
        for first, count, stride, (copies, extra) in zip(self._first, self._counts, self._strides, self.readings, strict=False):
            numbers += [first + copy * stride + np.arange(count) for copy in range(copies)]
            numbers.append(first + copies * stride + permutation(bits, int(count))[:extra])
        rows = np.concatenate(numbers)
        return rows[permutation(bits, len(rows))]

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the source of each number, and the row in it."""
        sources = np.searchsorted(self._first, numbers, side="right") - 1
        return sources, (numbers - self._first[sources]) % self._counts[sources]


def readings_of(name: str, weight: float, rows: int) -> tuple[int, int]:
    """Return how often an epoch reads all rows of a source, and how many it reads once more. Raises DataError for none, or too many."""
    copies, extra = int(weight), round((weight % 1) * rows)
    if not copies * rows + extra:
        raise DataError(f"{name}: weight {weight} of {rows} rows is less than one row; set a larger weight, or give more rows")
    if weight > 1 and weight * rows > MOST_ROWS:
        raise DataError(
            f"{name}: weight {weight:g} of {rows:,} rows is {weight * rows:,.0f} rows an epoch, more than {MOST_ROWS:,}: "
            f"set its data.train weight to {max(1, MOST_ROWS // rows):,} or less, or train for more epochs"
        )
    return copies, extra

"""Random numbers from the raw bits of PCG64, the same in every version of numpy; a numpy Generator's numbers may change (NEP 19).
WeightedOrder is the random order in which an epoch reads the rows of weighted sources, a function of (sources, seed, epoch) alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tfkit.errors import DataError

MAX_ROWS = 100_000_000  # the most rows that an epoch reads from a source with a weight above 1; the order takes 24 bytes of memory a row
_RANGE = 1 << 64
# A decorator that caches what a function draws for two epochs, since a step may read the end of one epoch and the beginning of the next.
by_epoch = lru_cache(maxsize=2)


def permutation(bits: np.random.PCG64, count: int) -> NDArray[np.int64]:
    """Return a random permutation of range(count): (count,)."""
    return np.argsort(bits.random_raw(count), kind="stable")


class Draws:
    """Single random numbers, drawn one after another from the bits of a generator."""

    def __init__(self, bits: np.random.PCG64):
        numbers: Iterator[int] = (number for _ in itertools.count() for number in bits.random_raw(1024).tolist())
        self._next = numbers.__next__

    def integer(self, end: int) -> int:
        """Return an integer drawn uniformly from 0 to end - 1."""
        return self._next() * end >> 64

    def bernoulli(self, probability: float) -> bool:
        """Return True with the probability `probability`, otherwise False."""
        return self._next() < probability * _RANGE

    def binomial_half(self, n: int) -> int:
        """Return the number of successes in `n` trials of probability 1/2."""
        whole = sum(self._next().bit_count() for _ in range(n // 64))
        return whole + (self._next() >> (64 - n % 64)).bit_count()


class WeightedOrder:
    """The order of the rows of several sources; row numbers continue from source to source. `len()` is the number of rows in an epoch.

    With a weight of 2.3, an epoch reads every row of a source twice, and a random three tenths of its rows once more.
    """

    def __init__(self, sources: Sequence[tuple[str, float, int]], seed: int, *, distinct: bool = False):
        """`sources`: the name, the weight and the number of rows of each source. `distinct`: a row that an epoch reads several
        times has a different row number each time. Raises DataError if a weight gives no rows or too many in an epoch.
        """
        self._counts = np.array([rows for _, _, rows in sources], np.int64)
        self.repeats = [count_repeats(name, weight, rows) for name, weight, rows in sources]
        self._strides = [rows * distinct for _, _, rows in sources]  # the difference between a row's numbers in two successive passes
        used = [rows + passes * stride for rows, (passes, _), stride in zip(self._counts, self.repeats, self._strides, strict=True)]
        self._first = np.concatenate([[0], np.cumsum(used)])  # the row number of each source's first row
        self._order = by_epoch(lambda epoch: self.draw(np.random.PCG64([seed, epoch])))

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def rows(self) -> list[int]:
        """The number of rows that an epoch reads from each source."""
        return [passes * int(count) + extra for count, (passes, extra) in zip(self._counts, self.repeats, strict=True)]

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """Return the row numbers of an epoch, in reading order: (len(self),)."""
        return self._order(epoch)

    def draw(self, bits: np.random.PCG64) -> NDArray[np.int64]:
        """Draw the row numbers of an epoch, in reading order, each as often as the weight of its source requires: (len(self),)."""
        numbers = []
        for first, count, stride, (passes, extra) in zip(self._first, self._counts, self._strides, self.repeats, strict=False):
            numbers += [first + i * stride + np.arange(count) for i in range(passes)]
            numbers.append(first + passes * stride + permutation(bits, int(count))[:extra])
        rows = np.concatenate(numbers)
        return rows[permutation(bits, len(rows))]

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the index of the source of each row number, and the row's index in that source."""
        sources = np.searchsorted(self._first, numbers, side="right") - 1
        return sources, (numbers - self._first[sources]) % self._counts[sources]


def count_repeats(name: str, weight: float, rows: int) -> tuple[int, int]:
    """Return how many times an epoch reads all rows of a source, and how many rows it reads once more. Raises DataError if it would
    read no rows, or, with a weight above 1, more than `MAX_ROWS`.
    """
    passes, extra = int(weight), round((weight % 1) * rows)
    if not passes * rows + extra:
        raise DataError(f"{name}: weight {weight} of {rows} rows is less than one row; set a larger weight, or give more rows")
    if weight > 1 and weight * rows > MAX_ROWS:
        raise DataError(
            f"{name}: weight {weight:g} of {rows:,} rows is {weight * rows:,.0f} rows an epoch, more than {MAX_ROWS:,}: "
            f"set its data.train weight to {max(1, MAX_ROWS // rows):,} or less, or train for more epochs"
        )
    return passes, extra

"""Random numbers from the raw bits of numpy's PCG64, which are the same in every version; a Generator's numbers may change (NEP 19)."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

_RANGE = 1 << 64
# Caches what a function draws for the last two epochs: a step may span two epochs, and a resumed run may go back by one.
by_epoch = lru_cache(maxsize=2)


def permutation(bits: np.random.PCG64, count: int) -> NDArray[np.int64]:
    """Return a random permutation of range(count): (count,)."""
    return np.argsort(bits.random_raw(count), kind="stable")


class Draws:
    """Single random numbers, drawn one after another from the bits of a generator."""

    def __init__(self, bits: np.random.PCG64):
        numbers: Iterator[int] = (number for _ in count() for number in bits.random_raw(1024).tolist())
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

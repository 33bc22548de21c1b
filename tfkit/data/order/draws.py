"""Random numbers from numpy's raw bits, which stay the same for ever; those of its Generator may change with any release (NEP 19)."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_RANGE = 1 << 64
Value = TypeVar("Value")


def permutation(bits: np.random.PCG64, count: int) -> NDArray[np.int64]:
    """Return a random order of `count` things: (count,)."""
    return np.argsort(bits.random_raw(count), kind="stable")


class Draws:
    """Single draws, one after another."""

    def __init__(self, bits: np.random.PCG64):
        self._next = _raw(bits).__next__

    def below(self, end: int) -> int:
        """Return a whole number from 0 to end - 1, each equally likely."""
        return self._next() * end >> 64

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._next() < probability * _RANGE

    def binomial_half(self, n: int) -> int:
        """Return the number of successes in `n` trials of probability 1/2."""
        count = 0
        for _ in range(n // 64):
            count += self._next().bit_count()
        return count + (self._next() >> (64 - n % 64)).bit_count()


def _raw(bits: np.random.PCG64) -> Iterator[int]:
    while True:
        yield from bits.random_raw(1024).tolist()


class EpochCache(Generic[Value]):
    """Draws of an epoch, kept for two epochs: a step may span two, and a resumed one looks back."""

    def __init__(self, draw: Callable[[int], Value]):
        self._draw = draw
        self._known: dict[int, Value] = {}

    def __getitem__(self, epoch: int) -> Value:
        value = self._known.pop(epoch, None)
        if value is None:
            value = self._draw(epoch)
        self._known[epoch] = value
        while len(self._known) > 2:
            del self._known[next(iter(self._known))]
        return value

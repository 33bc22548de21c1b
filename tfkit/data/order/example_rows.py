"""The order of examples: shuffled, in batches of similar lengths, or packed, several in a row. A function of (seed, epoch) alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import EpochCache, permutation
from tfkit.data.order.weighted_order import WeightedOrder
from tfkit.data.store.example_sets import Example, ExampleSet

_POOL = 50  # batches sorted by length together: enough that neighbours are similar, few enough that their order stays random


@dataclass(frozen=True)
class ExampleBatch:
    """Rows of a micro-batch, B of them, each one example or, packed, several."""

    rows: list[list[Example]]
    epochs: NDArray[np.int64]  # (B,) and
    numbers: NDArray[np.int64]  # (B,) which rows these are, for what is drawn again in each epoch

    def __len__(self) -> int:
        return len(self.rows)

    def single(self) -> list[Example]:
        """Return the examples of rows that hold one each."""
        return [row[0] for row in self.rows]


class ExampleRows:
    """The rows of weighted sets, in a WeightedOrder that may be grouped by length."""

    def __init__(
        self,
        sets: Sequence[tuple[ExampleSet, float]],
        seed: int,
        *,
        batch_size: int,
        length_groups: bool = True,
        packed_length: int | None = None,
    ):
        """`packed_length`: the examples are packed once, in a random order, into rows of at most this many tokens. Raises DataError."""
        self.seed, self.batch_size, self.length_groups = seed, batch_size, length_groups
        self.sets = [one for one, _ in sets]
        self.lengths = np.concatenate([np.asarray(one.lengths, np.int64) for one in self.sets])
        self._shuffled = WeightedOrder([(one.name, weight, len(one)) for one, weight in sets], seed)
        self._packs = None if packed_length is None else self._pack(packed_length)
        self._orders = EpochCache(self._draw)

    def __len__(self) -> int:
        return len(self._shuffled if self._packs is None else self._packs)

    @property
    def mean_tokens(self) -> float:
        """Tokens a row, over an epoch."""
        if self._packs is not None:
            return float(self.row_lengths().mean())
        weights = [copies + extra / len(one) for one, (copies, extra) in zip(self.sets, self._shuffled.readings, strict=True)]
        totals = [weight * float(np.asarray(one.lengths, np.int64).sum()) for one, weight in zip(self.sets, weights, strict=True)]
        return sum(totals) / len(self)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.row_lengths().max())

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's rows, in the order in which they are read: (len(self),)."""
        return self._orders[epoch]

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> ExampleBatch:
        """Return the rows of these numbers."""
        packs = [[number] if self._packs is None else self._packs[number] for number in numbers.tolist()]
        return ExampleBatch([[owner[i] for owner, i in map(self._owner, pack)] for pack in packs], epochs, numbers)

    def place(self, number: int) -> str:
        """Return the place of the first example of a row."""
        owner, i = self._owner(number if self._packs is None else self._packs[number][0])
        return owner.place(i)

    def _owner(self, number: int) -> tuple[ExampleSet, int]:
        owners, rows = self._shuffled.locate(np.array([number]))
        return self.sets[int(owners[0])], int(rows[0])

    def row_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each row, in the order of their numbers."""
        if self._packs is None:
            return self.lengths
        return np.array([self.lengths[pack].sum() for pack in self._packs])

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        bits = np.random.PCG64([self.seed, epoch])
        if self._packs is not None:
            return permutation(bits, len(self._packs))
        rows = self._shuffled.draw(bits)
        return self._grouped(rows, epoch, bits) if self.length_groups else rows

    def _grouped(self, rows: NDArray[np.int64], epoch: int, bits: np.random.PCG64) -> NDArray[np.int64]:
        """Return batches of similar lengths in a random order. The very first holds the longest rows: too little memory shows at once.

        A step that spans two epochs takes its first rows from the end of the one before; the batches here begin behind its rest.
        """
        size = self.batch_size
        rest = min(-epoch * len(self) % size, len(rows))
        if epoch == 0:  # not into the tail
            longest = int(self.lengths[rows].argmax())
            rows[[0, longest]] = rows[[longest, 0]]
        head, rows = rows[:rest], rows[rest:]
        whole = len(rows) // size * size
        body, tail = rows[:whole], rows[whole:]
        pools = [body[start : start + _POOL * size] for start in range(0, whole, _POOL * size)]
        ordered = [pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools]
        batches = np.concatenate([np.empty(0, np.int64), *ordered]).reshape(-1, size)
        batches = batches[permutation(bits, len(batches))]
        if epoch == 0 and len(batches):
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([_longest_first(head, self.lengths), batches.ravel(), _longest_first(tail, self.lengths)])

    def _pack(self, length: int) -> list[list[int]]:
        """Return the examples of each row: each example, in a random order, goes into the first of the latest rows with room for it."""
        packs: list[list[int]] = []
        room: list[int] = []
        for number in self._shuffled.draw(np.random.PCG64([self.seed])).tolist():
            need = int(self.lengths[number])
            assert need <= length, "an encoder cuts what is longer"
            for place in range(max(0, len(packs) - _POOL), len(packs)):
                if room[place] >= need:
                    packs[place].append(number)
                    room[place] -= need
                    break
            else:
                packs.append([number])
                room.append(length - need)
        return packs


def _longest_first(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.argsort(-lengths[rows], kind="stable")]

"""The order of examples, which depends on seed and epoch alone: shuffled; in batches of similar lengths; or packed, several in a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import WeightedOrder, by_epoch, permutation
from tfkit.data.store.example_sets import Example, ExampleSet

_POOL = 50  # the number of batches whose rows are sorted together by length; also the number of rows that `_pack` tries for an example


@dataclass(frozen=True)
class ExampleBatch:
    """The B rows of a micro-batch. A row is one example, or several if examples are packed."""

    rows: list[list[Example]]
    epochs: NDArray[np.int64]  # (B,) the epoch of each row; (epoch, row number) seeds the row's draws, such as masks
    numbers: NDArray[np.int64]  # (B,) row numbers

    def single(self) -> list[Example]:
        """Return the only example of each row, for rows that are not packed."""
        return [row[0] for row in self.rows]


class ExampleRows:
    """Rows of weighted example sets, shuffled; with one example each (if `length_groups`, in batches of similar lengths), or packed."""

    def __init__(
        self,
        sets: Sequence[tuple[ExampleSet, float]],
        seed: int,
        *,
        batch_size: int,
        length_groups: bool = True,
        packed_length: int | None = None,
    ):
        """`packed_length`: pack the examples once, in a random order, into rows of at most this many tokens; None: each row is one example.

        Raises DataError if a weight gives no rows or too many in an epoch.
        """
        self.seed, self.batch_size, self.length_groups = seed, batch_size, length_groups
        self.sets = [example_set for example_set, _ in sets]
        self.lengths = np.concatenate([np.asarray(example_set.lengths, np.int64) for example_set in self.sets])
        self._shuffled = WeightedOrder([(example_set.name, weight, len(example_set)) for example_set, weight in sets], seed)
        self._packs = None if packed_length is None else self._pack(packed_length)
        self.order = by_epoch(self._draw)  # the row numbers of an epoch, in reading order: (len(self),)

    def __len__(self) -> int:
        return len(self._shuffled if self._packs is None else self._packs)

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens in a row, over an epoch."""
        if self._packs is not None:
            return float(self.row_lengths().mean())
        repeats = zip(self.sets, self._shuffled.repeats, strict=True)
        weights = [passes + extra / len(example_set) for example_set, (passes, extra) in repeats]
        totals = [weight * float(np.asarray(owner.lengths, np.int64).sum()) for owner, weight in zip(self.sets, weights, strict=True)]
        return sum(totals) / len(self)

    @property
    def longest(self) -> int:
        """The number of tokens in the longest row."""
        return int(self.row_lengths().max())

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> ExampleBatch:
        """Return the rows with these row numbers."""
        packs = [[number] if self._packs is None else self._packs[number] for number in numbers.tolist()]
        return ExampleBatch([[owner[i] for owner, i in map(self._owner, pack)] for pack in packs], epochs, numbers)

    def place(self, number: int) -> str:
        """Return the place (such as file and line) of a row's first example."""
        owner, i = self._owner(number if self._packs is None else self._packs[number][0])
        return owner.place(i)

    def _owner(self, number: int) -> tuple[ExampleSet, int]:
        owners, rows = self._shuffled.locate(np.array([number]))
        return self.sets[int(owners[0])], int(rows[0])

    def row_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens in each row, by row number: (rows,)."""
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
        """Return the rows in batches of similar lengths; the batches are shuffled. The run's first batch has the longest row, so that a
        lack of memory shows in the first step. If an epoch's last step also reads the first rows of the next epoch, the batches of the
        next epoch begin after these rows.
        """
        size = self.batch_size
        rest = min(-epoch * len(self) % size, len(rows))
        if epoch == 0:  # keep the longest row out of the tail, so that its batch can be moved to the beginning
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
        """Return the example numbers in each row. An example goes into the first of the last `_POOL` rows that has room, or a new row."""
        packs: list[list[int]] = []
        room: list[int] = []
        for number in self._shuffled.draw(np.random.PCG64([self.seed])).tolist():
            tokens = int(self.lengths[number])
            assert tokens <= length, "encoders truncate longer examples"
            for row in range(max(0, len(packs) - _POOL), len(packs)):
                if room[row] >= tokens:
                    packs[row].append(number)
                    room[row] -= tokens
                    break
            else:
                packs.append([number])
                room.append(length - tokens)
        return packs


def _longest_first(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.argsort(-lengths[rows], kind="stable")]

"""Packed rows: token streams cut into rows of one length, in an order that depends on the seed and the epoch alone.

    stream   t0 t1 t2 t3 t4 t5 t6 ...        length 3
    row 0    t0 t1 t2 t3                     targets t1 t2 t3
    row 1             t3 t4 t5 t6            targets t4 t5 t6

Neighbours share one id, so that every id but the first is a target exactly once; or none (`shared` 0), where the targets are not the
next ids. The rest at the end that does not fill a row is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.weighted_order import WeightedOrder
from tfkit.data.store.token_stream import TokenStream
from tfkit.errors import DataError


class PackedRow(NamedTuple):
    """One row: `length` inputs and, shifted by one, their targets."""

    ids: NDArray[np.int64]  # (length + shared,)
    document_ids: NDArray[np.int64]  # (length + shared,) from 0, one more where a document begins


@dataclass(frozen=True)
class PackedBatch:
    """Rows of a micro-batch, B of them; inputs are `ids[:, :-1]`, targets `ids[:, 1:]`."""

    ids: NDArray[np.int64]  # (B, length + shared)
    document_ids: NDArray[np.int64]  # (B, length + shared) from 0 in each row, one more where a document begins
    epochs: NDArray[np.int64] | None = None  # (B,) and
    numbers: NDArray[np.int64] | None = None  # (B,) which rows these are, for what is drawn again in each epoch

    def __len__(self) -> int:
        return len(self.ids)


class PackedRows:
    """The rows of weighted streams, in a WeightedOrder. Everything is a function of (streams, length, seed, epoch)."""

    def __init__(self, streams: Sequence[tuple[TokenStream, float]], length: int, seed: int, shared: int = 1):
        """`shared`: ids that a row has in common with the next. Raises DataError if a stream has less than one row, or its weight less than
        one row an epoch.
        """
        self.length, self.shared = length, shared
        self.streams = [stream for stream, _ in streams]
        self.counts = [max(0, len(stream.tokens) - shared) // length for stream in self.streams]
        for stream, count in zip(self.streams, self.counts, strict=True):
            if not count:
                raise DataError(
                    f"{stream.name}: {len(stream.tokens):,} tokens do not fill one row of {length}{f' + {shared}' if shared else ''}; "
                    "give more text, or set a smaller data.sequence_length"
                )
        sources = [(stream.name, weight, count) for (stream, weight), count in zip(streams, self.counts, strict=True)]
        self._order = WeightedOrder(sources, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: tuple[int, int]) -> PackedRow:
        """Return row `i` of an epoch, as rows[epoch, i]."""
        epoch, i = place
        batch = self.gather(np.array([epoch]), self.order(epoch)[i : i + 1])
        return PackedRow(batch.ids[0], batch.document_ids[0])

    @property
    def targets(self) -> int:
        """Target ids in an epoch."""
        return len(self) * self.length

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's rows, in the order in which they are read: (len(self),)."""
        return self._order[epoch]

    @property
    def mean_tokens(self) -> float:
        """Tokens a row."""
        return float(self.length)

    @property
    def longest(self) -> int:
        """Tokens of the longest row: all have the same."""
        return self.length

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> PackedBatch:
        """Return the rows of these numbers as arrays."""
        ids = np.empty((len(numbers), self.length + self.shared), dtype=np.int64)
        document_ids = np.empty_like(ids)
        owners, rows = self._order.locate(numbers)
        for owner in np.unique(owners):
            stream, here = self.streams[owner], np.flatnonzero(owners == owner)
            places = (rows[here] * self.length)[:, None] + np.arange(self.length + self.shared)
            ids[here] = stream.tokens[places]
            document = np.searchsorted(stream.starts, places, side="right")
            document_ids[here] = document - document[:, :1]
        return PackedBatch(ids, document_ids, epochs, numbers)

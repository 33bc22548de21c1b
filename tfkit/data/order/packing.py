"""Packed rows: token streams cut into rows of the same length, in an order that depends on the seed and the epoch alone.

    stream   t0 t1 t2 t3 t4 t5 t6 ...        length 3
    row 0    t0 t1 t2 t3                     targets t1 t2 t3
    row 1             t3 t4 t5 t6            targets t4 t5 t6

Successive rows share one id, so that every id in the rows but the first is a target exactly once. With `shared` 0, rows share no id, for
objectives whose targets are not the next ids. Ids at the end of a stream that do not fill a row are dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import WeightedOrder
from tfkit.data.store.token_stream import TokenStream
from tfkit.errors import DataError


@dataclass(frozen=True)
class PackedBatch:
    """The B rows of a micro-batch; the inputs of a causal model are `ids[:, :-1]`, its targets `ids[:, 1:]`."""

    ids: NDArray[np.int64]  # (B, length + shared)
    document_ids: NDArray[np.int64]  # (B, length + shared) the document of each id, numbered from 0 in each row
    epochs: NDArray[np.int64] | None = None  # (B,) the epoch of each row; (epoch, row number) seeds the row's draws, such as masks
    numbers: NDArray[np.int64] | None = None  # (B,) row numbers


class PackedRows:
    """The rows of weighted streams, in a random order. Rows and order depend on (streams, length, shared, seed, epoch) alone."""

    def __init__(self, streams: Sequence[tuple[TokenStream, float]], length: int, seed: int, shared: int = 1):
        """A row has `length` + `shared` ids. `shared`: the number of ids that successive rows have in common.

        Raises DataError if a stream fills no row, or its weight gives no rows or too many in an epoch.
        """
        self.length, self.shared = length, shared
        self.mean_tokens, self.longest = float(length), length  # all rows have the same length
        self.streams = [stream for stream, _ in streams]
        self.counts = [max(0, len(stream.tokens) - shared) // length for stream in self.streams]
        for stream, count in zip(self.streams, self.counts, strict=True):
            if not count:
                raise DataError(
                    f"{stream.name}: {len(stream.tokens):,} tokens do not fill one row of {length}{f' + {shared}' if shared else ''}; "
                    "give more text, or set a smaller data.sequence_length"
                )
        sources = [(stream.name, weight, count) for (stream, weight), count in zip(streams, self.counts, strict=True)]
        self.order = WeightedOrder(sources, seed)

    def __len__(self) -> int:
        return len(self.order)

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> PackedBatch:
        """Return the rows with these row numbers as arrays."""
        ids = np.empty((len(numbers), self.length + self.shared), dtype=np.int64)
        document_ids = np.empty_like(ids)
        streams, rows = self.order.locate(numbers)
        for i in np.unique(streams):
            stream, selected = self.streams[i], np.flatnonzero(streams == i)
            positions = (rows[selected] * self.length)[:, None] + np.arange(self.length + self.shared)
            ids[selected] = stream.tokens[positions]
            document = np.searchsorted(stream.starts, positions, side="right")
            document_ids[selected] = document - document[:, :1]
        return PackedBatch(ids, document_ids, epochs, numbers)

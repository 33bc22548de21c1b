"""Rows for span corruption (Raffel et al. 2019, 3.1.4): tokens cut from streams, and the spans that are taken out of them.

    row     t0 t1 t2 t3 t4 t5 t6 t7 t8 t9        10 tokens, 3 of them noise, in 2 spans
    kept    t0 t1 t2       t5 t6 t7 t8           parts of 3 and 4
    noise            t3 t4             t9        parts of 2 and 1; kept comes first, noise last

The lengths of both kinds of parts are random: all ways to cut n tokens into k parts are equally likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import permutation
from tfkit.data.order.packing import PackedRows
from tfkit.data.store.token_stream import TokenStream


class SpanLengths(NamedTuple):
    """The cut of a row of `raw` tokens, and the lengths of the model's inputs and targets; the same for every row."""

    raw: int
    noise: int
    spans: int

    @property
    def inputs(self) -> int:
        """The length of the inputs: the kept tokens, a sentinel for each span, and the end."""
        return self.raw - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """The length of the targets: the noise, a sentinel before each span, and the end."""
        return self.noise + self.spans + 1


def span_lengths(raw: int, rate: float, mean_span: float) -> SpanLengths:
    """Return the lengths of a row of `raw` tokens, at least 2. Rounded half to even, as in T5's own code; no part is empty."""
    noise = min(max(round(raw * rate), 1), raw - 1)
    return SpanLengths(raw, noise, min(max(1, round(noise / mean_span)), noise, raw - noise))


def longest_row(length: int, rate: float, mean_span: float) -> SpanLengths:
    """Return the lengths of the longest row whose inputs fit `length`, at least 3. They fill it, except at rates near 1."""
    found = span_lengths(2, rate, mean_span)
    while (longer := span_lengths(found.raw + 1, rate, mean_span)).inputs <= length:
        found = longer
    return found


@dataclass(frozen=True)
class SpanBatch:
    """Rows of a micro-batch, B of them, each cut into k kept parts and k of noise, which alternate."""

    ids: NDArray[np.int64]  # (B, raw)
    kept: NDArray[np.int64]  # (B, k) lengths, in all raw - noise, and
    noise: NDArray[np.int64]  # (B, k) in all noise


class SpanRows:
    """The rows of weighted streams, of `lengths.raw` tokens each, with weights and order as PackedRows has them.

    The spans are a function of (seed, epoch, row); `static`: of (seed, row), the same in every epoch. A row that an epoch reads twice, by
    its weight, has the same spans both times. Documents of a stream are joined with their separator, and spans cross it: T5 sees the text
    of a row as one.
    """

    def __init__(self, streams: Sequence[tuple[TokenStream, float]], lengths: SpanLengths, seed: int, static: bool = False):
        """Raises DataError if a stream has less than one row, or its weight less than one row an epoch."""
        self.lengths, self.seed, self.static = lengths, seed, static
        self._rows = PackedRows(streams, lengths.raw, seed, shared=0)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def mean_tokens(self) -> float:
        """Tokens a row, of inputs and targets."""
        return float(self.longest)

    @property
    def longest(self) -> int:
        """Tokens of the longest row: all have the same."""
        return self.lengths.inputs + self.lengths.targets

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the numbers of an epoch's rows, in the order in which they are read: (len(self),)."""
        return self._rows.order(epoch)

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> SpanBatch:
        """Return the rows of these numbers, as they are cut in these epochs."""
        raw, noise, spans = self.lengths
        parts = []
        for epoch, number in zip(np.zeros_like(epochs) if self.static else epochs, numbers, strict=True):
            # + 1: a trailing 0 seeds as if it were absent, and that seed already draws the order of the rows
            bits = np.random.PCG64([self.seed, int(epoch), int(number) + 1])
            parts.append((_parts(bits, raw - noise, spans), _parts(bits, noise, spans)))
        kept, taken = (np.stack(sizes) for sizes in zip(*parts, strict=True))
        return SpanBatch(self._rows.gather(epochs, numbers).ids, kept, taken)


def _parts(bits: np.random.PCG64, total: int, count: int) -> NDArray[np.int64]:
    """Return the lengths of `count` parts of `total` tokens, none of them empty: (count,). All cuts are equally likely."""
    cuts = np.sort(permutation(bits, total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))

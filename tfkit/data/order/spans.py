"""Rows for span corruption (Raffel et al. 2019, 3.1.4): tokens cut from streams, and the spans that are dropped from the input.

    row     t0 t1 t2 t3 t4 t5 t6 t7 t8 t9        10 tokens, 3 of them noise, in 2 spans
    kept    t0 t1 t2       t5 t6 t7 t8           parts of 3 and 4
    noise            t3 t4             t9        spans of 2 and 1; a row begins with a kept part and ends with noise

The lengths of kept parts and of spans are random: all ways to split n tokens into k parts are equally likely.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import permutation
from tfkit.data.order.packing import PackedRows
from tfkit.data.store.token_stream import TokenStream


class SpanLengths(NamedTuple):
    """The numbers of tokens and spans in a row, which give the lengths of the model's inputs and targets and are equal for all rows."""

    raw: int  # tokens in all
    noise: int  # tokens in spans
    spans: int

    @property
    def inputs(self) -> int:
        """The length of the inputs: the kept tokens, a sentinel for each span, and the end-of-sequence token."""
        return self.raw - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """The length of the targets: the noise, a sentinel before each span, and the end-of-sequence token."""
        return self.noise + self.spans + 1


def span_lengths(raw: int, rate: float, mean_span: float) -> SpanLengths:
    """Return the lengths for a row of `raw` tokens (2 or more). No kept part or span is empty. Halves are rounded to even, as in T5's code.

    `rate`: the fraction of the tokens that is noise; `mean_span`: the mean number of tokens in a span.
    """
    noise = min(max(round(raw * rate), 1), raw - 1)
    return SpanLengths(raw, noise, min(max(1, round(noise / mean_span)), noise, raw - noise))


def longest_row(length: int, rate: float, mean_span: float) -> SpanLengths:
    """Return the lengths of the longest row with at most `length` (3 or more) input tokens. If rate < 0.5, it has exactly `length`."""
    rows = range(2, math.ceil(length / (1 - rate)) + 1)  # the inputs of a row of length / (1 - rate) tokens are too long
    fitting = bisect_right(rows, length, key=lambda raw: span_lengths(raw, rate, mean_span).inputs)
    return span_lengths(max(2, fitting + 1), rate, mean_span)


@dataclass(frozen=True)
class SpanBatch:
    """The B rows of a micro-batch, each split into k kept parts and k noise spans, which alternate."""

    ids: NDArray[np.int64]  # (B, raw)
    kept: NDArray[np.int64]  # (B, k) lengths of the kept parts; their sum is `raw - noise` (SpanLengths)
    noise: NDArray[np.int64]  # (B, k) lengths of the spans; their sum is `noise`


class SpanRows:
    """The rows of weighted streams, each of `lengths.raw` tokens, in the order of PackedRows.

    The spans are a function of (seed, epoch, row), or, if `static`, of (seed, row): the same in every epoch. A row that an epoch reads
    twice, because of its stream's weight, has the same spans both times. Spans may cross the separator between documents, as in T5.
    """

    def __init__(self, streams: Sequence[tuple[TokenStream, float]], lengths: SpanLengths, seed: int, static: bool = False):
        """Raises DataError if a stream fills no row, or its weight gives no rows or too many in an epoch."""
        self.lengths, self.seed, self.static = lengths, seed, static
        self.longest = lengths.inputs + lengths.targets  # all rows have the same length
        self.mean_tokens = float(self.longest)
        self._rows = PackedRows(streams, lengths.raw, seed, shared=0)
        self.order = self._rows.order

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> SpanBatch:
        """Return the rows with these row numbers, with the spans that are drawn for these epochs; if `static`, for epoch 0."""
        raw, noise, spans = self.lengths
        parts = []
        for epoch, number in zip(np.zeros_like(epochs) if self.static else epochs, numbers, strict=True):
            # + 1, because the seed [seed, epoch, 0] gives the same bits as [seed, epoch], from which the order of the rows is drawn.
            bits = np.random.PCG64([self.seed, int(epoch), int(number) + 1])
            parts.append((_draw_lengths(bits, raw - noise, spans), _draw_lengths(bits, noise, spans)))
        kept_lengths, noise_lengths = (np.stack(lengths) for lengths in zip(*parts, strict=True))
        return SpanBatch(self._rows.gather(epochs, numbers).ids, kept_lengths, noise_lengths)


def _draw_lengths(bits: np.random.PCG64, total: int, count: int) -> NDArray[np.int64]:
    """Split `total` tokens into `count` parts, none of them empty, and return their lengths: (count,). All splits are equally likely."""
    cuts = np.sort(permutation(bits, total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))

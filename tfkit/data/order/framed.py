"""Rows for an encoder: texts cut from token streams, with the special ids that BERT puts around them.

    stream   [CLS] a b c d [SEP] [CLS] e f [SEP] [CLS] g h i j k ...          cut every 7 ids, for rows of up to 9
    row 0    [CLS] a b c d [SEP]                                              (the [CLS] at the cut is dropped)
    row 1    [CLS] e f [SEP] [CLS] g h i [SEP]                                two documents; the second continues in row 2
    row 2    [CLS] j k ...

A document that is cut gets a [SEP] before the cut and a [CLS] after it. Streams are therefore cut every length - 2 ids, and a row has at
most `length` ids. Every id of a document's text is in exactly one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import WeightedOrder
from tfkit.data.store.token_stream import TokenStream
from tfkit.errors import DataError, ModelError
from tfkit.tokenizer import Tokenizer

_BLOCK = 1 << 24  # the most ids that are counted in one call of np.bincount


class Frame(NamedTuple):
    """The special ids of a row: the first id ([CLS]), the last id of each text ([SEP]), and padding."""

    first: int
    last: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Frame":
        """Return the special ids of a tokenizer. Raises ModelError if its template is not BERT's ([CLS] text [SEP])."""
        first, last = tokenizer.cls_id, tokenizer.sep_id
        framed = first is not None and last is not None and (tokenizer.prefix, tokenizer.suffix) == ((first,), (last,))
        if first is None or last is None or not framed or tokenizer.eos_id not in (None, last):
            raise ModelError("the tokenizer does not put [CLS] before each text and [SEP] after it; use one of kind wordpiece, or BERT's")
        return cls(first, last, tokenizer.pad_id or 0)


@dataclass(frozen=True)
class FramedBatch:
    """The B rows of a micro-batch, padded to T, the length of the longest."""

    ids: NDArray[np.int64]  # (B, T)
    lengths: NDArray[np.int64]  # (B,) the number of ids without padding
    texts: NDArray[np.int64]  # (B, T) the index of each id's text in the row, from 0; a text includes its [SEP], and a [CLS] before it
    epochs: NDArray[np.int64]  # (B,) the epoch of each row; (epoch, row number) seeds the row's draws, such as masks
    numbers: NDArray[np.int64]  # (B,) row numbers
    token_counts: NDArray[np.int64] | None = None  # (largest id + 1,) occurrences of each id in the sources; None: not counted
    unrelated: NDArray[np.int64] | None = None  # (B,) for pairs; 0: the second text follows the first; 1: it is from another document


class FramedRows:
    """The rows of weighted streams, in a random order. Rows and order depend on (streams, length, seed, epoch) alone.

    A row that an epoch reads several times, because of its stream's weight, has a different row number each time, so that its masks differ.
    """

    def __init__(self, streams: Sequence[tuple[TokenStream, float]], length: int, seed: int, frame: Frame, *, count_tokens: bool = False):
        """`count_tokens`: count the ids of the streams, for `FramedBatch.token_counts`.

        Raises DataError if `length` is below 3, if a stream has only [CLS] and [SEP], or if a weight gives no rows or too many in an epoch.
        """
        if length < 3:
            raise DataError(
                f"rows of {length} tokens have no room for a token between [CLS] and [SEP]: data.sequence_length must be 3 or more"
            )
        self.length, self.longest, self.frame = length, length, frame
        self.streams = [stream for stream, _ in streams]
        # The number of rows of each stream; a stream's last id, a [SEP], needs no row of its own.
        self.counts = [max(1, -(-(len(stream.tokens) - 1) // (length - 2))) for stream in self.streams]
        for stream in self.streams:
            if len(stream.tokens) == 2 * len(stream):
                raise DataError(f"{stream.name}: no text has a token other than [CLS] and [SEP]; give texts that contain words")
        sources = [(stream.name, weight, count) for (stream, weight), count in zip(streams, self.counts, strict=True)]
        self.order = WeightedOrder(sources, seed, distinct=True)
        self.token_counts = count_ids(self.streams) if count_tokens else None

    def __len__(self) -> int:
        return len(self.order)

    @property
    def mean_tokens(self) -> float:
        """The mean number of tokens in a row, over an epoch."""
        means = [_framed_ids(stream, self.length) / count for stream, count in zip(self.streams, self.counts, strict=True)]
        return float(np.average(means, weights=self.order.rows))

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> FramedBatch:
        """Return the rows with these row numbers as arrays."""
        locations = zip(*(indices.tolist() for indices in self.order.locate(numbers)), strict=True)
        rows = [self._texts(stream, row) for stream, row in locations]
        framed = [[ids for text in texts for ids in ([self.frame.first], text, [self.frame.last])] for texts in rows]
        texts = [np.repeat(np.arange(len(row)), [len(text) + 2 for text in row]) for row in rows]
        return pad_rows(framed, texts, self.frame, epochs, numbers, token_counts=self.token_counts)

    def _texts(self, number: int, row: int) -> list[NDArray[Any]]:
        """Return the parts of documents in a row of stream `number`, without [CLS] and [SEP]; one empty text if no ids are left."""
        stream, width = self.streams[number], self.length - 2
        begin, end = row * width, min((row + 1) * width, len(stream.tokens))
        documents = range(int(np.searchsorted(stream.starts, begin, side="right")) - 1, int(np.searchsorted(stream.starts, end)))
        parts = [(max(begin, int(stream.starts[i]) + 1), min(end, int(stream.starts[i + 1]) - 1)) for i in documents]
        return [stream.tokens[start:stop] for start, stop in parts if start < stop] or [stream.tokens[:0]]


def pad_rows(
    rows: Sequence[Sequence[list[int] | NDArray[Any]]],
    texts: Sequence[NDArray[np.int64]],
    frame: Frame,
    epochs: NDArray[np.int64],
    numbers: NDArray[np.int64],
    **extras: NDArray[np.int64] | None,
) -> FramedBatch:
    """Return the padded batch of rows, each a list of arrays of ids. `texts`: the index of each id's text; padding gets the last index."""
    lengths = np.array([len(row_texts) for row_texts in texts], np.int64)
    ids = np.full((len(rows), int(lengths.max())), frame.padding, np.int64)
    padded = np.empty_like(ids)
    for row, (parts, row_texts) in enumerate(zip(rows, texts, strict=True)):
        ids[row, : lengths[row]] = np.concatenate(parts)
        padded[row, : lengths[row]], padded[row, lengths[row] :] = row_texts, row_texts[-1]
    return FramedBatch(ids, lengths, padded, epochs, numbers, **extras)


def count_ids(streams: Sequence[TokenStream]) -> NDArray[np.int64]:
    """Return how often each id occurs in the streams: (largest id + 1,)."""
    counts = np.zeros(max(stream.max_id for stream in streams) + 1, np.int64)
    for stream in streams:
        for start in range(0, len(stream.tokens), _BLOCK):
            counts += np.bincount(stream.tokens[start : start + _BLOCK], minlength=len(counts))
    return counts


def _framed_ids(stream: TokenStream, length: int) -> int:
    """Return the number of ids in all rows of a stream: the ids of its texts, and a [CLS] and a [SEP] for each part of a document."""
    starts, ends = np.asarray(stream.starts[:-1]), np.asarray(stream.starts[1:])
    sizes = ends - starts - 2
    cuts = np.arange(length - 2, len(stream.tokens), length - 2)
    documents = np.searchsorted(starts, cuts, side="right") - 1
    inside = (cuts >= starts[documents] + 2) & (cuts <= ends[documents] - 2)  # a cut between two ids of a document's text
    return int(sizes.sum()) + 2 * (int((sizes > 0).sum()) + int(inside.sum()))

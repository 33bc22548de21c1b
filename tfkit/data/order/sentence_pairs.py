"""Pairs of texts for next sentence prediction (Devlin et al. 2018, 3.1), made almost as BERT's create_pretraining_data.py makes them.

    document  s0 s1 s2 s3 s4 s5 s6 ...        sentences until the row is full: s0 s1 s2 s3, split at random after s1
    is next   [CLS] s0 s1 [SEP] s2 s3 [SEP]   the next row begins with s4
    or not    [CLS] s0 s1 [SEP] r5 r6 [SEP]   r: another document, from a random sentence on; the next row begins with s2, still unused

An epoch's pairs are drawn from (seed, epoch) as positions of texts in the stream; their ids are read when a row is gathered.
"""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfkit.data.order.draws import Draws, by_epoch, count_repeats, permutation
from tfkit.data.order.framed import Frame, FramedBatch, count_ids, pad_rows
from tfkit.data.store.token_stream import TokenStream
from tfkit.errors import DataError

_PAIRS = 1  # part of the seed from which pairs are drawn, so that it differs from the seed of their order
_SPECIAL = 3  # the number of special ids in a row: [CLS] first [SEP] second [SEP]


class Pairs(NamedTuple):
    """n pairs of a stream, as positions in its ids."""

    starts: NDArray[np.int64]  # (n, 2) where the first and the second text begin
    lengths: NDArray[np.int32]  # (n, 2) the number of ids in each text
    unrelated: NDArray[np.int8]  # (n,) 0: the second text follows the first; 1: it is from another document


class SentencePairRows:
    """The rows of weighted streams: pairs, with [CLS] and [SEP] around them. With a weight of 2.3, an epoch has the pairs of two passes
    over all documents, and three tenths of the pairs of a third pass.

    The number of pairs in an epoch is random. `len()` is the number in the first epoch; a later epoch with more pairs leaves out some at
    random, and an epoch with fewer pairs reads some twice. The pairs and their order depend on (streams, length, short, seed, epoch) alone.
    """

    def __init__(
        self,
        streams: Sequence[tuple[TokenStream, float]],
        length: int,
        seed: int,
        frame: Frame,
        *,
        short: float = 0.1,
        static: bool = False,
        count_tokens: bool = False,
    ):
        """`short`: the fraction of rows that are filled only up to a random length. `static`: every epoch has the same pairs. Raises
        DataError if a row has no room for two texts, a stream has under two documents with text, or a weight gives no rows or too many.
        """
        if length < _SPECIAL + 2:
            raise DataError(
                f"rows of {length} tokens have no room for two texts, [CLS] and two [SEP]: data.sequence_length must be 5 or more"
            )
        self.length, self.longest, self.seed, self.frame, self.short, self.static = length, length, seed, frame, short, static
        self.weights = [weight for _, weight in streams]
        self._documents = [_Documents(stream) for stream, _ in streams]
        self._pairs, self.order = by_epoch(self._draw_pairs), by_epoch(self._draw_order)
        first = self._pairs(0)
        self._rows = sum(len(pairs.starts) for pairs in first)
        self.mean_tokens = float(sum(pairs.lengths.sum() for pairs in first)) / self._rows + _SPECIAL  # the mean of the first epoch
        self.token_counts = count_ids([stream for stream, _ in streams]) if count_tokens else None

    def __len__(self) -> int:
        return self._rows

    def gather(self, epochs: NDArray[np.int64], numbers: NDArray[np.int64]) -> FramedBatch:
        """Return the rows with these row numbers in these epochs."""
        pairs = [self._find(epoch, number) for epoch, number in zip(epochs.tolist(), numbers.tolist(), strict=True)]
        cls, sep = [self.frame.first], [self.frame.last]
        rows: list[list[list[int] | NDArray[Any]]] = [[cls, first, sep, second, sep] for first, second, _ in pairs]
        texts = [np.repeat([0, 1], [len(first) + 2, len(second) + 1]) for first, second, _ in pairs]
        unrelated = np.array([is_unrelated for _, _, is_unrelated in pairs], np.int64)
        return pad_rows(rows, texts, self.frame, epochs, numbers, token_counts=self.token_counts, unrelated=unrelated)

    def _find(self, epoch: int, number: int) -> tuple[NDArray[Any], NDArray[Any], int]:
        """Return the ids of both texts of the pair with this row number in an epoch, and 1 if they are from different documents, else 0."""
        for documents, pairs in zip(self._documents, self._pairs(0 if self.static else epoch), strict=True):
            if number < len(pairs.starts):
                spans = zip(pairs.starts[number].tolist(), pairs.lengths[number].tolist(), strict=True)
                first, second = (documents.stream.tokens[start : start + size] for start, size in spans)
                return first, second, int(pairs.unrelated[number])
            number -= len(pairs.starts)
        raise IndexError(f"epoch {epoch} has no such row")

    def _draw_pairs(self, epoch: int) -> list[Pairs]:
        """Return the pairs of each stream in an epoch."""
        bits = np.random.PCG64([self.seed, epoch, 0, _PAIRS])
        draws = Draws(bits)
        by_stream = []
        for documents, weight in zip(self._documents, self.weights, strict=True):
            first = documents.draw_pairs(self.length - _SPECIAL, self.short, draws)
            count_repeats(documents.stream.name, weight, len(first.starts))  # raises DataError if the weight gives no rows or too many
            passes = [first] * (weight >= 1)
            passes += [documents.draw_pairs(self.length - _SPECIAL, self.short, draws) for _ in range(int(weight) - 1)]
            if weight % 1:
                last = documents.draw_pairs(self.length - _SPECIAL, self.short, draws) if passes else first
                chosen = permutation(bits, len(last.starts))[: round((weight % 1) * len(last.starts))]
                passes.append(Pairs(last.starts[chosen], last.lengths[chosen], last.unrelated[chosen]))
            by_stream.append(Pairs(*(np.concatenate(parts) for parts in zip(*passes, strict=True))))
        return by_stream

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Return an epoch's row numbers, (len(self),). The first epoch begins with its longest row, so that lack of memory shows early."""
        bits = np.random.PCG64([self.seed, epoch])
        sizes = np.concatenate([pairs.lengths.sum(axis=1) for pairs in self._pairs(0 if self.static else epoch)])
        order = np.concatenate([permutation(bits, len(sizes)) for _ in range(-(-self._rows // len(sizes)))])[: self._rows]
        if epoch == 0:
            longest = int(sizes[order].argmax())
            order[[0, longest]] = order[[longest, 0]]
        return order


class _Documents:
    """The documents of a stream that have at least one sentence."""

    def __init__(self, stream: TokenStream):
        assert stream.sentences is not None, "this stream was built without sentences"
        self.stream, self.sentences = stream, stream.sentences
        self.first = np.searchsorted(self.sentences, stream.starts)  # (documents + 1,) the first sentence of each document
        self.kept = np.flatnonzero(np.diff(self.first))
        if len(self.kept) < 2:
            raise DataError(
                f"{stream.name}: next sentence prediction needs two documents with text, and there is {len(self.kept)} here; "
                "give more documents, hold out a larger fraction, or set objective.next_sentence: false"
            )

    def draw_pairs(self, most: int, short: float, draws: Draws) -> Pairs:
        """Return the pairs of one pass over all documents, of at most `most` ids each. The target length of a pair is drawn for each pair,
        whereas BERT's script draws it once for each document.
        """
        starts, lengths, unrelated = array("q"), array("i"), array("b")
        for number in range(len(self.kept)):
            borders = self._borders(number)
            sentence, count = 0, len(borders) - 1  # each sentence has the ids from borders[sentence] to borders[sentence + 1]
            while sentence < count:
                target = 2 + draws.integer(most - 1) if draws.bernoulli(short) else most
                end = min(bisect_left(borders, borders[sentence] + target, sentence + 1), count)
                cut = sentence + 1 + (draws.integer(end - sentence - 1) if end - sentence > 1 else 0)
                first = borders[sentence], borders[cut]
                is_unrelated = end - sentence == 1 or draws.bernoulli(0.5)
                if is_unrelated:
                    second = self._draw_elsewhere(number, target - (first[1] - first[0]), draws)
                    sentence = cut
                else:
                    second = borders[cut], borders[end]
                    sentence = end
                sizes = fit(first[1] - first[0], second[1] - second[0], most)
                for (begin, stop), size in zip((first, second), sizes, strict=True):
                    starts.append(begin + draws.binomial_half(stop - begin - size))  # each id that does not fit is cut off at a random end
                    lengths.append(size)
                unrelated.append(is_unrelated)
        return Pairs(np.array(starts).reshape(-1, 2), np.array(lengths).reshape(-1, 2), np.array(unrelated))

    def _borders(self, number: int) -> list[int]:
        """Return the position of each sentence of document `kept[number]`, and the end of the last one, before the [SEP]."""
        document = self.kept[number]
        begins: list[int] = self.sentences[self.first[document] : self.first[document + 1]].tolist()
        return [*begins, int(self.stream.starts[document + 1]) - 1]

    def _draw_elsewhere(self, number: int, target: int, draws: Draws) -> tuple[int, int]:
        """Return where a span of another document begins and ends: successive sentences from a random one on, with at least `target` ids in
        all unless the document ends before. `number`: the index in `kept` of the document to avoid.
        """
        other = draws.integer(len(self.kept) - 1)
        document = self.kept[other + (other >= number)]
        first, last = int(self.first[document]), int(self.first[document + 1])
        sentence = first + draws.integer(last - first)
        begin = int(self.sentences[sentence])
        end = sentence + 1 + int(np.searchsorted(self.sentences[sentence + 1 : last], begin + target))
        return begin, int(self.sentences[end]) if end < last else int(self.stream.starts[document + 1]) - 1


def fit(first: int, second: int, most: int) -> tuple[int, int]:
    """Return the lengths of two texts after truncation to `most` ids in all: the longer text loses ids; at equal lengths, the second."""
    kept = min(first, max(most - second, most - most // 2))
    return kept, min(second, most - kept)

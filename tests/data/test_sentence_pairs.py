"""Pairs of texts against BERT's own algorithm, written down again as its script has it, sentence by sentence and id by id."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from tiny_streams import CLS, FRAME, SEP, drawn, numbered, stream

from tfkit.data import SentencePairRows
from tfkit.data.order.draws import Draws
from tfkit.data.order.sentence_pairs import _PAIRS, fit
from tfkit.errors import DataError

Text = list[int]
EPOCH = np.zeros(1, np.int64)


def reference(documents: list[list[Text]], most: int, draws: Draws, short: float) -> Iterator[tuple[Text, Text, bool]]:
    """create_instances_from_document of google-research/bert, before truncation; its random numbers are those of `draws`."""
    for index, document in enumerate(documents):
        chunk: list[Text] = []
        i = 0
        while i < len(document):
            if not chunk:
                target = 2 + draws.integer(most - 1) if draws.bernoulli(short) else most
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                a_end = 1 + draws.integer(len(chunk) - 1) if len(chunk) >= 2 else 1
                first = [*chain(*chunk[:a_end])]
                second: Text = []
                unrelated = len(chunk) == 1 or draws.bernoulli(0.5)
                if unrelated:
                    other = draws.integer(len(documents) - 1)
                    random_document = documents[other + (other >= index)]
                    for sentence in random_document[draws.integer(len(random_document)) :]:
                        second += sentence
                        if len(second) >= target - len(first):
                            break
                    i -= len(chunk) - a_end
                else:
                    second = [*chain(*chunk[a_end:])]
                yield first, second, unrelated
                chunk = []
            i += 1


def truncate(first: int, second: int, most: int) -> tuple[int, int]:
    """truncate_seq_pair, of lengths alone."""
    while first + second > most:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def rows_of(rows: SentencePairRows, epoch: int = 0) -> list[tuple[Text, Text, int]]:
    """The two texts of each row, in the order of their numbers, and whether the second is from elsewhere."""
    found = []
    for number in range(len(rows)):
        batch = rows.gather(EPOCH + epoch, np.array([number]))
        ids, texts = batch.ids[0].tolist(), batch.texts[0].tolist()
        assert batch.lengths.tolist() == [len(ids)]
        border = ids.index(SEP)
        assert (ids[0], ids[-1], ids.count(CLS), ids.count(SEP)) == (CLS, SEP, 1, 2)
        assert texts == [0] * (border + 1) + [1] * (len(ids) - border - 1)
        found.append((ids[1:border], ids[border + 1 : -1], int(batch.unrelated[0])))
    return found


@pytest.mark.parametrize("length", [16, 40])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_rows_are_those_of_the_script(seed: int, length: int) -> None:
    documents, most = drawn(9, seed), length - 3
    rows = SentencePairRows([(stream(documents), 1.0)], length, seed, FRAME, short=0.3)
    draws = Draws(np.random.PCG64([seed, 0, 0, _PAIRS]))
    wanted = reference(documents, most, draws, 0.3)
    fronts = []
    for (first, second, unrelated), found in zip(wanted, rows_of(rows), strict=True):
        assert found[2] == unrelated
        sizes = truncate(len(first), len(second), most)
        for whole, kept, size in zip((first, second), found[:2], sizes, strict=True):
            front = draws.binomial_half(len(whole) - size)
            assert kept == whole[front : front + size]
            fronts += [front / (len(whole) - size)] if len(whole) > size else []
    assert 0.3 < np.mean(fronts) < 0.7, "ids are lost at both ends"


def test_the_longer_text_loses_ids_until_both_fit() -> None:
    for most in range(2, 12):
        assert all(fit(first, second, most) == truncate(first, second, most) for first in range(1, 20) for second in range(1, 20))


def test_half_follow_and_nothing_is_lost() -> None:
    documents = drawn(60, seed=5, most_sentences=80, longest=6)
    rows = SentencePairRows([(stream(documents), 1.0)], 64, 7, FRAME)
    found = rows_of(rows)
    owner = {token: i for i, document in enumerate(documents) for sentence in document for token in sentence}
    for first, second, unrelated in found:
        assert (owner[first[0]] == owner[second[0]]) != bool(unrelated)
        assert unrelated or second[0] > first[-1]
    assert np.mean([unrelated for *_, unrelated in found]) == pytest.approx(0.5, abs=0.06)
    seen = {token for first, second, unrelated in found for token in (first if unrelated else first + second)}
    assert len(seen) > 0.93 * len(owner), "only what is cut off is lost"
    assert rows.mean_tokens == pytest.approx(np.mean([len(first) + len(second) + 3 for first, second, _ in found]))


def test_pairs_are_drawn_anew_in_each_epoch_unless_they_are_static() -> None:
    documents = stream(drawn(9, seed=1))
    moving, still = (SentencePairRows([(documents, 1.0)], 32, 1, FRAME, static=static) for static in (False, True))
    count = len(moving)
    assert [len(moving.order(epoch)) for epoch in range(4)] == [count] * 4, "an epoch has as many rows as the first"
    for epoch in range(4):
        batch = moving.gather(np.full(count, epoch), moving.order(epoch))
        assert len(batch.ids) == count
    one, other = (still.gather(np.full(count, epoch), np.arange(count)) for epoch in (0, 5))
    assert one.ids.tolist() == other.ids.tolist()
    one, other = (moving.gather(np.full(8, epoch), np.arange(8)) for epoch in (0, 5))
    assert one.ids.tolist() != other.ids.tolist()
    sizes = moving.gather(np.zeros(count, np.int64), moving.order(0)).lengths
    assert sizes[0] == sizes.max() > sizes.min(), "a longest row is the first"
    assert sorted(moving.order(0)) == [*range(count)]
    again = SentencePairRows([(documents, 1.0)], 32, 1, FRAME).gather(np.full(8, 5), np.arange(8))
    assert again.ids.tolist() == other.ids.tolist(), "a seek needs nothing of the epochs before"


def test_weights_repeat_a_source_with_other_pairs() -> None:
    one, two = stream(drawn(9, seed=1)), stream(numbered([[5] * 40, [5] * 40], 60_000), "second")
    once = len(SentencePairRows([(one, 1.0)], 32, 1, FRAME))
    rows = SentencePairRows([(one, 2.5), (two, 1.0)], 32, 1, FRAME)
    found = rows_of(rows)
    of_first = [row for row in found if row[0][0] < 60_000]
    assert len(of_first) == pytest.approx(2.5 * once, rel=0.2)
    assert all((first[0] < 60_000) == (second[0] < 60_000) for first, second, _ in found), "pairs stay within a source"
    assert of_first[:once] != of_first[once : 2 * once]


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(DataError, match="there is 1 here"):
        SentencePairRows([(stream(numbered([[5, 5], []])), 1.0)], 16, 1, FRAME)
    with pytest.raises(DataError, match=r"data\.sequence_length must be 5 or more"):
        SentencePairRows([(stream(drawn(3, 1)), 1.0)], 4, 1, FRAME)
    with pytest.raises(DataError, match=r"weight 0.001 of \d+ rows is less than one row"):
        SentencePairRows([(stream(drawn(3, 1)), 0.001)], 16, 1, FRAME)
    with pytest.raises(DataError, match=r"weight 1e\+10 of \d+ rows is .* rows an epoch, more than 100,000,000: set its"):
        SentencePairRows([(stream(drawn(3, 1)), 1e10)], 16, 1, FRAME)


def test_documents_without_text_are_left_out() -> None:
    documents = [[], *numbered([[5] * 4, [5] * 4]), [], []]
    assert len(rows_of(SentencePairRows([(stream(documents), 1.0)], 16, 1, FRAME))) > 2

"""Rows of [CLS] text [SEP], with each id of each document in one row; pairs of texts, as by BERT's own script written down again."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_streams import CLS, FRAME, PAD, SEP, drawn, numbered, stream

from tfkit.data import FramedBatch, FramedRows, SentencePairRows
from tfkit.data.order.draws import Draws
from tfkit.data.order.sentence_pairs import _PAIRS, fit
from tfkit.errors import DataError

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


def all_rows(rows: FramedRows, epoch: int = 0) -> FramedBatch:
    numbers = np.sort(rows.order(epoch))
    return rows.gather(np.full(len(numbers), epoch), numbers)


def pieces(batch: FramedBatch) -> list[list[list[int]]]:
    """The texts of each row, with their special ids."""
    found = []
    for ids, texts, length in zip(batch.ids.tolist(), batch.texts.tolist(), batch.lengths.tolist(), strict=True):
        assert ids[length:] == [PAD] * (len(ids) - length)
        row = [[token for token, of in zip(ids[:length], texts, strict=False) if of == i] for i in range(texts[-1] + 1)]
        assert [*chain(*row)] == ids[:length]
        found.append(row)
    return found


def test_the_layout_of_the_rows() -> None:
    """As drawn at the top of the module."""
    rows = FramedRows([(stream(numbered([[4], [2], [5]])), 1.0)], 9, 1, FRAME)
    assert pieces(all_rows(rows)) == [[[CLS, 10, 11, 12, 13, SEP]], [[CLS, 14, 15, SEP], [CLS, 16, 17, 18, SEP]], [[CLS, 19, 20, SEP]]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZES, st.integers(3, 20))
def test_every_id_is_in_one_row_in_order_and_framed(sizes: list[int], length: int) -> None:
    documents = numbered([[size] for size in sizes])
    rows = FramedRows([(stream(documents), 1.0)], length, 1, FRAME)
    batch = all_rows(rows)
    assert len(batch.ids) == len(rows)
    assert int(batch.lengths.max()) <= length
    found = pieces(batch)
    for row in found:
        for text in row:
            assert (text[0], text[-1]) == (CLS, SEP)
            assert not {CLS, SEP} & {*text[1:-1]}
    texts = [text[1:-1] for row in found for text in row if len(text) > 2]
    assert [*chain(*texts)] == [token for document in documents for sentence in document for token in sentence]
    owner = {token: i for i, document in enumerate(documents) for sentence in document for token in sentence}
    assert all(len({owner[token] for token in text}) == 1 for text in texts), "a text is of one document"
    empty = sum(row == [[CLS, SEP]] for row in found)
    assert rows.mean_tokens * len(rows) == pytest.approx(int(batch.lengths.sum()) - 2 * empty)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one = stream(drawn(8, seed=1))
    rows, again, other = (FramedRows([(one, 1.0)], 16, seed, FRAME) for seed in (1, 1, 2))
    assert rows.order(3).tolist() == again.order(3).tolist() != other.order(3).tolist()
    assert rows.order(3).tolist() != rows.order(4).tolist()
    assert sorted(rows.order(3)) == [*range(len(rows))]


def test_weights_read_rows_again_under_other_numbers() -> None:
    once = FramedRows([(stream(drawn(8, seed=1)), 1.0)], 16, 1, FRAME)
    twice = FramedRows([(stream(drawn(8, seed=1)), 2.5), (stream(numbered([[60]], 40_000)), 1.0)], 16, 1, FRAME)
    count = len(once)
    assert len(twice) == 2 * count + round(0.5 * count) + 5
    numbers = twice.order(0)
    assert len(np.unique(numbers)) == len(twice), "each reading of a row has masks of its own"
    batch = twice.gather(np.zeros(len(numbers), np.int64), numbers)
    read = np.unique(batch.ids[:, 1], return_counts=True)
    assert sorted(read[1]) == [1] * 5 + [2] * (count - round(0.5 * count)) + [3] * round(0.5 * count)
    assert twice.mean_tokens == pytest.approx(float(batch.lengths.mean()), rel=0.1)


def test_texts_of_nothing_and_a_context_without_room_are_refused() -> None:
    with pytest.raises(DataError, match="no text has a token"):
        FramedRows([(stream([[], [[]]]), 1.0)], 16, 1, FRAME)
    with pytest.raises(DataError, match=r"data\.sequence_length must be 3 or more"):
        FramedRows([(stream(numbered([[20]])), 1.0)], 2, 1, FRAME)


def test_ids_are_counted_where_that_is_asked() -> None:
    rows = FramedRows([(stream([[[5, 6, 5]], [[7]]]), 1.0)], 16, 1, FRAME, count_tokens=True)
    batch = all_rows(rows)
    assert batch.token_counts.tolist() == [0, 2, 2, 0, 0, 2, 1, 1]


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

"""Rows of [CLS] text [SEP]: every id of every document is in exactly one row, within its own special ids."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_streams import CLS, FRAME, PAD, SEP, drawn, numbered, stream

from tfkit.data import FramedBatch, FramedRows
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
    assert pieces(all_rows(rows)) == [
        [[CLS, 10, 11, 12, 13, SEP]],
        [[CLS, 14, 15, SEP], [CLS, 16, 17, 18, SEP]],
        [[CLS, 19, 20, SEP]],
    ]


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

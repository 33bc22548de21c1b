from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.data import Loader, PackedBatch, PackedRows, TokenStream
from tfkit.data.order.weighted_order import count_repeats
from tfkit.errors import DataError


def stream_of(lengths: list[int], first: int = 0, name: str = "corpus") -> TokenStream:
    """Documents of these lengths whose ids count on from `first`, and one closing id."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(first, first + starts[-1] + 1).astype(np.uint32)
    return TokenStream(name, tokens, starts, np.zeros(len(lengths), np.int64), 0, int(tokens.max()), "", False)


def read(rows: PackedRows, epoch: int) -> PackedBatch:
    """The rows of an epoch, in their order."""
    return rows.gather(np.full(len(rows), epoch), rows.order(epoch))


def collect(batch: PackedBatch) -> PackedBatch:
    return batch


STREAMS = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=30), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(STREAMS, st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_target_is_seen_once_an_epoch(lengths: list[list[int]], length: int, epoch: int, seed: int) -> None:
    streams = [stream_of(documents, 10_000 * i) for i, documents in enumerate(lengths)]
    rows = PackedRows([(stream, 1.0) for stream in streams], length, seed)
    seen = Counter(read(rows, epoch).ids[:, 1:].ravel().tolist())
    whole = [stream.tokens[1 : (len(stream.tokens) - 1) // length * length + 1] for stream in streams]
    assert seen == Counter(np.concatenate(whole).tolist())
    assert len(rows) * length == sum(seen.values())


@settings(deadline=None, max_examples=150)
@given(STREAMS, st.integers(1, 3))
def test_document_ids_count_the_starts_within_the_row(lengths: list[list[int]], length: int) -> None:
    rows = PackedRows([(stream_of(documents, 10_000 * i), 1.0) for i, documents in enumerate(lengths)], length, 7)
    owner = [np.repeat(np.arange(len(documents) + 1), [*documents, 1]) for documents in lengths]  # the document of each id
    batch = read(rows, 0)
    for ids, document_ids in zip(batch.ids, batch.document_ids, strict=True):
        which, place = divmod(int(ids[0]), 10_000)
        expected = owner[which][place : place + length + 1]
        assert document_ids.tolist() == (expected - expected[0]).tolist()
        assert ids.dtype == document_ids.dtype == np.int64


@settings(deadline=None, max_examples=100)
@given(st.floats(0.1, 3.5), st.integers(0, 5))
def test_weights_are_copies_and_a_random_part(weight: float, epoch: int) -> None:
    rows = PackedRows([(stream_of([200]), weight), (stream_of([40], 10_000), 1.0)], 2, 3)
    counts = Counter(read(rows, epoch).ids[:, 0].tolist())
    weighted = [counts[start] for start in range(0, 200, 2)]
    assert set(weighted) <= {int(weight), int(weight) + 1}
    assert sum(weighted) == int(weight) * 100 + round(weight % 1 * 100)
    assert [counts[10_000 + start] for start in range(0, 40, 2)] == [1] * 20


def test_epochs_and_seeds_have_their_own_order_and_their_own_part() -> None:
    streams = [(stream_of([400]), 0.5)]
    orders = [tuple(PackedRows(streams, 2, seed).order(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert len({frozenset(order) for order in orders}) == 4
    assert orders[0] == tuple(PackedRows(streams, 2, 1).order(0))


def test_the_order_is_the_same_on_every_machine() -> None:
    assert PackedRows([(stream_of([16]), 1.0)], 2, 1).order(0).tolist() == [1, 6, 4, 7, 3, 0, 2, 5]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.sampled_from([(1, 1), (4, 2), (6, 6), (12, 3)]), st.permutations(range(12)))
def test_a_step_is_a_function_of_its_number(tokens: int, sizes: tuple[int, int], visits: list[int]) -> None:
    streams = [(stream_of([tokens]), 1.5)]
    in_order = [Loader(PackedRows(streams, 1, 5), collect, *sizes).step(n) for n in range(12)]
    jumping = Loader(PackedRows(streams, 1, 5), collect, *sizes)
    for n in visits:
        for ours, theirs in zip(jumping.step(n), in_order[n], strict=True):
            assert np.array_equal(ours.ids, theirs.ids)
            assert np.array_equal(ours.document_ids, theirs.document_ids)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(1, 50))
def test_no_row_is_lost_or_repeated_at_the_end_of_an_epoch(count: int, batch_size: int) -> None:
    rows = PackedRows([(stream_of([count]), 1.0)], 1, 9)
    loader = Loader(rows, collect, batch_size, batch_size)
    steps = -(-3 * count // batch_size)
    read = np.concatenate([batch.ids[:, 0] for n in range(steps) for batch in loader.step(n)])
    for epoch in range(3):
        assert sorted(read[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_micro_batches_are_the_step_in_parts() -> None:
    rows = PackedRows([(stream_of([50]), 1.0), (stream_of([30], 10_000), 1.0)], 4, 2)
    whole = Loader(rows, collect, 8, 8).step(1)
    parts = Loader(rows, collect, 8, 2).step(1)
    assert [len(part.ids) for part in parts] == [2] * 4
    assert np.array_equal(np.concatenate([part.ids for part in parts]), whole[0].ids)
    with pytest.raises(ValueError, match="does not divide"):
        Loader(rows, collect, 8, 3)


def test_too_little_text_is_refused_with_numbers() -> None:
    with pytest.raises(DataError, match=r"small: 8 tokens do not fill one row of 8 \+ 1"):
        PackedRows([(stream_of([100]), 1.0), (stream_of([7], name="small"), 1.0)], 8, 1)
    assert len(PackedRows([(stream_of([8]), 1.0)], 8, 1)) == 1


def test_a_weight_that_makes_more_rows_than_an_order_can_hold_is_refused() -> None:
    """Before the order is drawn, which would take 24 GB."""
    with pytest.raises(DataError) as caught:
        PackedRows([(stream_of([8 * 100_000 + 1]), 10_000.0)], 8, 1)
    said = "corpus: weight 10000 of 100,000 rows is 1,000,000,000 rows an epoch, more than 100,000,000: "
    assert str(caught.value) == said + "set its data.train weight to 1,000 or less, or train for more epochs"
    assert len(PackedRows([(stream_of([17]), 10_000.0)], 8, 1)) == 20_000
    assert count_repeats("corpus", 1.0, 1 << 40) == (1, 0), "rows that there are"


def test_only_two_orders_are_kept() -> None:
    rows = PackedRows([(stream_of([100]), 1.0)], 2, 1)
    for epoch in (0, 1, 0, 2, 3, 2):
        rows.order(epoch)
    assert rows._order._order.cache_info().currsize == 2

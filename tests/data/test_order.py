"""The order of rows, and packed rows in it: drawn by the seed, each row as often as its weight says, in steps that may grow."""

import math
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_streams import counted

from tfkit.data import BatchSizes, Loader, PackedRows
from tfkit.data.order.draws import Draws, WeightedOrder, by_epoch, count_repeats
from tfkit.errors import DataError


def test_the_draws_have_their_probabilities() -> None:
    draws, count = Draws(np.random.PCG64([1, 2])), 20_000
    found = np.bincount([draws.integer(7) for _ in range(count)])
    expected = count / 7
    assert float(((found - expected) ** 2 / expected).sum()) < 22.5, "chi-square of 6 degrees, p = 0.001"
    assert np.mean([draws.bernoulli(0.1) for _ in range(count)]) == pytest.approx(0.1, abs=0.008)
    assert not any(draws.bernoulli(0.0) for _ in range(100))
    assert all(draws.bernoulli(1.0) for _ in range(100))


@pytest.mark.parametrize("tosses", [0, 1, 63, 64, 65, 200])
def test_heads_are_binomial(tosses: int) -> None:
    draws = Draws(np.random.PCG64(tosses))
    found = np.array([draws.binomial_half(tosses) for _ in range(4000)])
    assert 0 <= found.min() <= found.max() <= tosses
    assert found.mean() == pytest.approx(tosses / 2, abs=4 * (tosses / 4 / 4000) ** 0.5)
    assert found.var() == pytest.approx(tosses / 4, rel=0.12)


def test_the_latest_two_are_kept() -> None:
    drawn: list[int] = []
    latest = by_epoch(lambda epoch: drawn.append(epoch) or 10 * epoch)
    assert [latest(epoch) for epoch in (0, 1, 0, 1, 2, 1, 0)] == [0, 10, 0, 10, 20, 10, 0]
    assert drawn == [0, 1, 2, 0]
    order = WeightedOrder([("a", 1.0, 9)], 1)
    assert order(0) is order(0)


sources = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 1.25, 2.0, 2.3, 3.75]), st.integers(2, 40)), min_size=1, max_size=4)


@given(given=sources, distinct=st.booleans(), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_each_row_is_read_as_its_weight_says(given: list[tuple[float, int]], distinct: bool, seed: int, epoch: int) -> None:
    order = WeightedOrder([(f"source {i}", weight, rows) for i, (weight, rows) in enumerate(given)], seed, distinct=distinct)
    numbers = order(epoch)
    assert len(numbers) == len(order) == sum(order.rows)
    assert not distinct or len(set(numbers.tolist())) == len(numbers)
    found = Counter(zip(*(part.tolist() for part in order.locate(numbers)), strict=True))
    for source, (weight, rows) in enumerate(given):
        times = [found[source, row] for row in range(rows)]
        assert sum(times) == order.rows[source] == int(weight) * rows + round(weight % 1 * rows)
        assert set(times) <= {int(weight), int(weight) + 1}
    again = WeightedOrder([(f"source {i}", weight, rows) for i, (weight, rows) in enumerate(given)], seed, distinct=distinct)
    assert np.array_equal(again(epoch), numbers)


def test_the_order_is_the_one_of_earlier_versions_on_every_machine() -> None:
    """Runs of 0.1.0 resume: these numbers may never change."""
    given = [("a", 1.5, 4), ("b", 1.0, 3)]
    assert WeightedOrder(given, 7)(2).tolist() == [5, 3, 1, 0, 0, 1, 6, 2, 4]
    assert WeightedOrder(given, 7, distinct=True)(2).tolist() == [9, 3, 1, 4, 0, 5, 10, 2, 8]
    assert PackedRows([(counted([16]), 1.0)], 2, 1).order(0).tolist() == [1, 6, 4, 7, 3, 0, 2, 5]


def test_a_weight_of_no_row_or_of_more_than_an_order_can_hold_is_refused() -> None:
    """Before the order is drawn, which would take 24 GB."""
    with pytest.raises(DataError, match=r"a: weight 0.1 of 4 rows is less than one row"):
        WeightedOrder([("a", 0.1, 4)], 1)
    with pytest.raises(DataError) as caught:
        PackedRows([(counted([8 * 100_000 + 1]), 10_000.0)], 8, 1)
    said = "corpus: weight 10000 of 100,000 rows is 1,000,000,000 rows an epoch, more than 100,000,000: "
    assert str(caught.value) == said + "set its data.train weight to 1,000 or less, or train for more epochs"
    assert len(PackedRows([(counted([17]), 10_000.0)], 8, 1)) == 20_000
    assert count_repeats("corpus", 1.0, 1 << 40) == (1, 0), "rows that there are"


# --------------------------------------------------------------------------------------------------------------- packed rows


STREAMS = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=30), min_size=1, max_size=3)


@given(STREAMS, st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_target_is_seen_once_an_epoch(lengths: list[list[int]], length: int, epoch: int, seed: int) -> None:
    """And document ids count the starts of documents within the row."""
    streams = [counted(documents, 10_000 * i) for i, documents in enumerate(lengths)]
    rows = PackedRows([(stream, 1.0) for stream in streams], length, seed)
    batch = rows.gather(np.full(len(rows), epoch), rows.order(epoch))
    whole = [stream.tokens[1 : (len(stream.tokens) - 1) // length * length + 1] for stream in streams]
    assert Counter(batch.ids[:, 1:].ravel().tolist()) == Counter(np.concatenate(whole).tolist())
    assert len(rows) * length == batch.ids[:, 1:].size
    owner = [np.repeat(np.arange(len(documents) + 1), [*documents, 1]) for documents in lengths]  # the document of each id
    for ids, document_ids in zip(batch.ids, batch.document_ids, strict=True):
        which, place = divmod(int(ids[0]), 10_000)
        expected = owner[which][place : place + length + 1]
        assert document_ids.tolist() == (expected - expected[0]).tolist()
        assert ids.dtype == document_ids.dtype == np.int64


def test_epochs_and_seeds_have_their_own_order_and_their_own_part() -> None:
    streams = [(counted([400]), 0.5)]
    orders = [tuple(PackedRows(streams, 2, seed).order(epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == len({frozenset(order) for order in orders}) == 4
    assert orders[0] == tuple(PackedRows(streams, 2, 1).order(0))


def test_too_little_text_is_refused_with_numbers() -> None:
    with pytest.raises(DataError, match=r"small: 8 tokens do not fill one row of 8 \+ 1"):
        PackedRows([(counted([100]), 1.0), (counted([7], name="small"), 1.0)], 8, 1)
    assert len(PackedRows([(counted([8]), 1.0)], 8, 1)) == 1


RAMPS = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 4000)).map(lambda one: (one[0] * one[1], one[0], one[2] / 10))


def test_one_size() -> None:
    sizes = BatchSizes(8)
    assert sizes.unit == 8
    assert [(sizes.size(step), sizes.before(step)) for step in (0, 1, 10**9)] == [(8, 0), (8, 8), (8, 8 * 10**9)]
    assert [sizes.steps(rows) for rows in (0, 0.5, 8, 8.01, 16)] == [0, 1, 1, 2, 2]


def test_a_ramp_by_hand() -> None:
    """From 2 to 8 over 16 rows: 2, 4 and 6 rows a step, a third of the 16 each, and one more of 4 so that all are three times 8."""
    sizes = BatchSizes(8, 2, 16)
    assert [sizes.size(step) for step in range(10)] == [2, 2, 2, 4, 4, 4, 6, 8, 8, 8]


def test_gpt3_s_ramp() -> None:
    """32k tokens to 0.5M over the first 4 billion, in rows of 2,048: within a step of the line everywhere, and computed at once."""
    rows = 4e9 / 2048
    sizes = BatchSizes(256, 16, rows)
    full = sizes.steps(rows)
    assert rows <= sizes.before(full) < rows + 2 * 256
    for step in range(0, full, 97):
        assert abs(sizes.size(step) - (16 + 240 * sizes.before(step) / rows)) <= 17
    assert sizes.size(full + 1) == 256
    assert full > BatchSizes(256).steps(rows) == math.ceil(rows / 256), "the same rows in more steps"


@given(RAMPS)
def test_the_table_is_the_sum_of_the_steps(ramp: tuple[int, int, float]) -> None:
    full, start, rows = ramp
    sizes = BatchSizes(full, start, rows)
    walked = [sizes.size(step) for step in range(600)]
    assert walked == sorted(walked)
    assert all(start <= size <= full and size % start == 0 for size in walked)
    before = [0, *np.cumsum(walked).tolist()]
    assert [sizes.before(step) for step in range(601)] == before
    first_full = walked.index(full)
    assert before[first_full] % full == 0
    assert rows - 1e-9 <= before[first_full] < rows + 2 * full
    for wanted in (0, 1, start, rows, before[first_full], before[first_full] + 1, rows + full):
        steps = sizes.steps(wanted)
        assert sizes.before(steps) >= wanted
        assert steps == 0 or sizes.before(steps - 1) < wanted


@given(RAMPS, st.integers(1, 30))
def test_growing_batches_read_the_rows_of_equal_ones(ramp: tuple[int, int, float], count: int) -> None:
    """In the same order, over the borders of epochs, none lost or twice; and step n is the same whether or not those before were read."""
    full, start, rows = ramp
    packed = PackedRows([(counted([count]), 1.0)], 1, 3)
    growing = Loader(packed, lambda batch: batch, BatchSizes(full, start, rows), start)
    read: list[tuple[int, int]] = []
    for step in range(12):
        parts = growing.step(step)
        assert {len(part.ids) for part in parts} == {start}
        read += [pair for part in parts for pair in zip(part.epochs.tolist(), part.numbers.tolist(), strict=True)]
    in_order = [(epoch, number) for epoch in range(len(read) // count + 1) for number in packed.order(epoch).tolist()]
    assert read == in_order[: len(read)]


def test_a_loader_ahead_of_its_steps_gives_the_same_ones() -> None:
    """In a thread; what was prepared is not used after a step was left out, or the micro-batches were made smaller."""
    threads: list[bool] = []

    def collate(part: Any) -> list[int]:
        threads.append(threading.current_thread() is threading.main_thread())
        return [int(number) for number in part.numbers]

    rows = PackedRows([(counted([8]), 1.0)], 1, 3)
    plain, ahead = Loader(rows, collate, 8, 4), Loader(rows, collate, 8, 4, ahead=True)
    for step, size in ((0, 4), (1, 4), (2, 4), (2, 2), (5, 2), (6, 2)):
        plain.micro_batch_size = ahead.micro_batch_size = size
        assert ahead.step(step) == plain.step(step), step
    threads.clear()
    ahead.step(7)
    assert True not in threads, "step 7 was prepared during step 6"


def test_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match="starts with 3 rows, which do not divide 8"):
        BatchSizes(8, 3, 10)
    with pytest.raises(ValueError, match="micro_batch_size 4 does not divide batch_size 2"):
        Loader(PackedRows([(counted([8]), 1.0)], 1, 3), lambda batch: batch, BatchSizes(8, 2, 10), 4)

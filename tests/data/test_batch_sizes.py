"""Batches that grow: a table of levels, against walking through the steps."""

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.data import BatchSizes, Loader, PackedRows, TokenStream

RAMPS = st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(0, 4000)).map(lambda one: (one[0] * one[1], one[0], one[2] / 10))


def test_one_size() -> None:
    sizes = BatchSizes(8)
    assert sizes.unit == 8
    assert [sizes.size(step) for step in (0, 1, 10**9)] == [8, 8, 8]
    assert [sizes.before(step) for step in (0, 1, 10**9)] == [0, 8, 8 * 10**9]
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
    stream = TokenStream("made", np.arange(count + 1, dtype=np.uint16), np.array([0, count + 1]), np.array([1]), 0, count, "made", False)
    packed = PackedRows([(stream, 1.0)], 1, 3)
    one = Loader(packed, lambda batch: batch, 1, 1)
    growing = Loader(packed, lambda batch: batch, BatchSizes(full, start, rows), start)
    read: list[tuple[int, int]] = []
    for step in range(12):
        parts = growing.step(step)
        assert {len(part.ids) for part in parts} == {start}
        read += [pair for part in parts for pair in zip(part.epochs.tolist(), part.numbers.tolist(), strict=True)]
    assert read == [(int(one.epochs(place)[0]), int(one.numbers(place)[0])) for place in range(len(read))]


def test_a_loader_ahead_of_its_steps_gives_the_same_ones() -> None:
    """In a thread; what was prepared is not used after a step was left out, or the micro-batches were made smaller."""
    threads: list[bool] = []

    def collate(part: Any) -> list[int]:
        threads.append(threading.current_thread() is threading.main_thread())
        return [int(number) for number in part.numbers]

    rows = PackedRows([(_stream(), 1.0)], 1, 3)
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
        Loader(PackedRows([(_stream(), 1.0)], 1, 3), lambda batch: batch, BatchSizes(8, 2, 10), 4)


def _stream() -> TokenStream:
    return TokenStream("made", np.arange(9, dtype=np.uint16), np.array([0, 9]), np.array([1]), 0, 8, "made", False)


def test_a_ramp_takes_more_steps_for_the_same_rows() -> None:
    ramp, whole = BatchSizes(64, 8, 1000), BatchSizes(64)
    assert ramp.steps(10_000) > whole.steps(10_000) == math.ceil(10_000 / 64)

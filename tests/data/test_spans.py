"""Which tokens of a row are taken out: golden lengths, parts that are equally likely, draws by seed, epoch and row alone."""

from collections import Counter

import numpy as np
import pytest
from tiny_streams import counted

from tfkit.data import SpanRows
from tfkit.data.order.spans import SpanLengths, longest_row, span_lengths
from tfkit.errors import DataError


@pytest.mark.parametrize(
    ("raw", "noise", "spans", "inputs", "targets"),
    [(568, 85, 28, 512, 114), (569, 85, 28, 513, 114), (100, 15, 5, 91, 21), (64, 10, 3, 58, 14), (2, 1, 1, 3, 3), (30, 4, 1, 28, 6)],
)
def test_lengths_are_those_of_the_released_code(raw: int, noise: int, spans: int, inputs: int, targets: int) -> None:
    """30: 4.5 rounds to 4, half to even."""
    found = span_lengths(raw, 0.15, 3.0)
    assert (found, found.inputs, found.targets) == ((raw, noise, spans), inputs, targets)


@pytest.mark.parametrize("length", [3, 16, 57, 256, 512, 513, 2048])
@pytest.mark.parametrize(("rate", "mean_span"), [(0.15, 3.0), (0.5, 3.0), (0.15, 10.0)])
def test_inputs_fill_the_context_and_no_row_is_longer(length: int, rate: float, mean_span: float) -> None:
    found = longest_row(length, rate, mean_span)
    assert found.inputs == length
    assert span_lengths(found.raw + 1, rate, mean_span).inputs > length
    assert longest_row(512, 0.15, 3.0) == SpanLengths(568, 85, 28)


def test_the_longest_row_is_not_counted_token_by_token() -> None:
    assert longest_row(10**8, 0.15, 3.0) == SpanLengths(111_111_110, 16_666_666, 5_555_555)


def test_no_part_is_ever_empty_even_where_almost_all_is_taken_out() -> None:
    lengths = longest_row(16, 0.9, 1.0)
    assert lengths.spans == lengths.raw - lengths.noise
    batch = SpanRows([(counted([4_999]), 1.0)], lengths, seed=1).gather(np.zeros(9, int), np.arange(9))
    assert (batch.kept == 1).all()
    assert (batch.noise >= 1).all()
    assert (batch.noise.sum(axis=1) == lengths.noise).all()


def test_all_ways_to_cut_are_equally_likely() -> None:
    """10 tokens, 4 of them noise, in 2 spans: 3 ways to cut the noise, and 5 to cut the rest."""
    rows = SpanRows([(counted([19_999]), 1.0)], SpanLengths(10, 4, 2), seed=3)
    batch = rows.gather(np.zeros(2000, int), np.arange(2000))
    found = Counter(zip(map(tuple, batch.kept.tolist()), map(tuple, batch.noise.tolist()), strict=True))
    assert set(found) == {((kept, 6 - kept), (noise, 4 - noise)) for kept in range(1, 6) for noise in range(1, 4)}
    expected = 2000 / 15
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 36.1  # chi squared of 14 degrees, p = 0.001


def test_every_token_is_in_one_row_and_a_row_is_what_the_stream_holds() -> None:
    rows = SpanRows([(counted([103]), 1.0), (counted([54], first=1000, name="other"), 2.0)], SpanLengths(10, 2, 1), seed=1)
    assert len(rows) == 10 + 2 * 5
    order = rows.order(0)
    assert sorted(order) == sorted([*range(10), *range(10, 15), *range(10, 15)])
    batch = rows.gather(np.zeros(15, int), np.arange(15))
    assert batch.ids[:10].ravel().tolist() == list(range(100))
    assert batch.ids[10:].ravel().tolist() == list(range(1000, 1050))
    assert rows.mean_tokens == rows.longest == rows.lengths.inputs + rows.lengths.targets == 14


def test_draws_are_a_function_of_seed_epoch_and_row() -> None:
    lengths = longest_row(64, 0.15, 3.0)

    def spans(seed: int, epoch: int, numbers: list[int], static: bool = False) -> list[list[int]]:
        rows = SpanRows([(counted([2_999]), 1.0)], lengths, seed, static)
        batch = rows.gather(np.full(len(numbers), epoch), np.array(numbers))
        return np.concatenate([batch.kept, batch.noise], axis=1).tolist()

    first = spans(1, 0, [5, 6, 7])
    assert first == spans(1, 0, [7, 6, 5])[::-1]  # whatever else is in the batch
    assert len({*map(tuple, first)}) == 3
    assert spans(2, 0, [5, 6, 7]) != first != spans(1, 1, [5, 6, 7])
    assert spans(1, 0, [5], static=True) == spans(1, 9, [5], static=True) == first[:1]


def test_too_little_text_is_an_error_with_a_remedy() -> None:
    with pytest.raises(
        DataError, match=r"corpus: 9 tokens do not fill one row of 10; give more text, or set a smaller data\.sequence_length"
    ):
        SpanRows([(counted([8]), 1.0)], SpanLengths(10, 2, 1), seed=1)


def test_spans_are_pinned() -> None:
    """A change of what is drawn would change every run that is resumed."""
    batch = SpanRows([(counted([299]), 1.0)], SpanLengths(30, 9, 3), seed=1).gather(np.array([0, 1]), np.array([0, 9]))
    assert (batch.kept.tolist(), batch.noise.tolist()) == ([[4, 7, 10], [3, 8, 10]], [[2, 5, 2], [2, 2, 5]])

"""The order of rows: drawn by the seed, every row as often as its weight says, under numbers that lead back to its source and row."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.data.order.draws import Draws, by_epoch
from tfkit.data.order.weighted_order import WeightedOrder
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
    assert found.min() >= 0
    assert found.max() <= tosses
    assert found.mean() == pytest.approx(tosses / 2, abs=4 * (tosses / 4 / 4000) ** 0.5)
    assert found.var() == pytest.approx(tosses / 4, rel=0.12)


def test_the_latest_two_are_kept() -> None:
    drawn: list[int] = []

    def draw(epoch: int) -> int:
        drawn.append(epoch)
        return 10 * epoch

    latest = by_epoch(draw)
    assert [latest(epoch) for epoch in (0, 1, 0, 1, 2, 1, 0)] == [0, 10, 0, 10, 20, 10, 0]
    assert drawn == [0, 1, 2, 0]


sources = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 1.25, 2.0, 2.3, 3.75]), st.integers(2, 40)), min_size=1, max_size=4)


@given(given=sources, distinct=st.booleans(), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_each_row_is_read_as_its_weight_says(given: list[tuple[float, int]], distinct: bool, seed: int, epoch: int) -> None:
    order = WeightedOrder([(f"source {i}", weight, rows) for i, (weight, rows) in enumerate(given)], seed, distinct=distinct)
    numbers = order[epoch]
    assert len(numbers) == len(order) == sum(order.rows)
    assert not distinct or len(set(numbers.tolist())) == len(numbers)
    found = Counter(zip(*(part.tolist() for part in order.locate(numbers)), strict=True))
    for source, (weight, rows) in enumerate(given):
        times = [found[source, row] for row in range(rows)]
        assert sum(times) == order.rows[source] == int(weight) * rows + round(weight % 1 * rows)
        assert set(times) <= {int(weight), int(weight) + 1}
    again = WeightedOrder([(f"source {i}", weight, rows) for i, (weight, rows) in enumerate(given)], seed, distinct=distinct)
    assert np.array_equal(again[epoch], numbers)


def test_the_order_is_the_one_of_earlier_versions() -> None:
    """Runs of 0.1.0 resume: these numbers may never change."""
    given = [("a", 1.5, 4), ("b", 1.0, 3)]
    assert WeightedOrder(given, 7)[2].tolist() == [5, 3, 1, 0, 0, 1, 6, 2, 4]
    assert WeightedOrder(given, 7, distinct=True)[2].tolist() == [9, 3, 1, 4, 0, 5, 10, 2, 8]


def test_a_weight_of_no_row_or_too_many_is_refused() -> None:
    with pytest.raises(DataError, match=r"a: weight 0.1 of 4 rows is less than one row"):
        WeightedOrder([("a", 0.1, 4)], 1)
    with pytest.raises(DataError, match=r"set its data\.train weight to 10,000,000 or less"):
        WeightedOrder([("a", 1e9, 10)], 1)

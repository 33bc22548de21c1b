"""Every row as often as its weight says, under numbers that lead back to its source and row; the order is a function of (seed, epoch)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.data.order.weighted_order import WeightedOrder
from tfkit.errors import DataError

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

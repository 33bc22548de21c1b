"""When a model has ceased to improve, beside the plainest statement of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkit.engine.training_run.validator import since_best

VALUES = st.lists(st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.integers(0, 3).map(float)))


@given(VALUES, st.booleans())
def test_the_evaluations_since_the_best(values: list[float | None], higher: bool) -> None:
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        assert since_best(values, higher) == len(values)
        return
    first_best = values.index(max(numbers) if higher else min(numbers))
    assert since_best(values, higher) == len(values) - 1 - first_best


@pytest.mark.parametrize(("higher", "since"), [(True, 2), (False, 0)])
def test_the_direction_matters(higher: bool, since: int) -> None:
    assert since_best([0.1, 0.5, 0.2, 0.05], higher) == since

import numpy as np
import pytest

from tfkit.data.order.draws import Draws, EpochCache


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

    latest = EpochCache(draw)
    assert [latest[epoch] for epoch in (0, 1, 0, 1, 2, 1, 0)] == [0, 10, 0, 10, 20, 10, 0]
    assert drawn == [0, 1, 2, 0]

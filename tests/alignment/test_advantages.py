"""Advantages against tables that were computed by hand, and against known limits: positions, GAE, whitening, groups, KL estimators."""

import pytest
import torch
from torch import Tensor

from tfkit.alignment.advantages import AdaptiveCoefficient, at_ends, generalized_advantages, group_advantages, k3, whiten


def real_tokens(*lengths: int, width: int = 4) -> Tensor:
    return torch.arange(width)[None] < torch.tensor(lengths)[:, None]


def test_rewards_and_advantages_at_every_place_of_the_end() -> None:
    """The end token is first, in the middle, last, or missing: the score is at the last real token, and nothing after it counts."""
    real = real_tokens(1, 3, 4, 4)  # the last one was cut: its last token is no end, and has the score all the same
    rewards = at_ends(torch.tensor([1.0, 2.0, 3.0, -1.0]), real)
    assert rewards.tolist() == [[1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 3], [0, 0, 0, -1]]
    values = torch.full((4, 4), 0.5)  # on padding, too, where it must not count
    advantages, returns = generalized_advantages(rewards, values, real, discount=1.0, decay=0.5)
    # by hand, from the last real token on: delta_t = r_t + V_{t+1} - V_t, A_t = delta_t + 0.5 A_{t+1}
    by_hand = [[0.5, 0, 0, 0], [0.375, 0.75, 1.5, 0], [0.3125, 0.625, 1.25, 2.5], [-0.1875, -0.375, -0.75, -1.5]]
    assert advantages.tolist() == by_hand
    assert returns.tolist() == [[1.0, 0, 0, 0], [0.875, 1.25, 2.0, 0], [0.8125, 1.125, 1.75, 3.0], [0.3125, 0.125, -0.25, -1.0]]


def test_the_limits_of_gae() -> None:
    """At decay 1 returns are the Monte Carlo sums, at 0 advantages are TD errors; width and content of the padding change nothing."""
    torch.manual_seed(1)
    real = real_tokens(1, 2, 5, 7, width=7)
    rewards, values = torch.randn(2, 4, 7, dtype=torch.float64)
    _, returns = generalized_advantages(rewards, values, real, discount=1.0, decay=1.0)
    sums = torch.where(real, rewards, 0.0).flip(1).cumsum(1).flip(1).masked_fill(~real, 0.0)
    torch.testing.assert_close(returns, sums)
    errors, _ = generalized_advantages(rewards, values, real, discount=0.9, decay=0.0)
    for row, length in enumerate((1, 2, 5, 7)):
        following = [*values[row, 1:length].tolist(), 0.0]
        expected = [float(rewards[row, t]) + 0.9 * following[t] - float(values[row, t]) for t in range(length)]
        assert errors[row, :length].tolist() == pytest.approx(expected)
        assert not errors[row, length:].any()
    wider = torch.nn.functional.pad(real, (0, 3))
    noise = [torch.nn.functional.pad(part, (0, 3), value=7.0) for part in (rewards, values)]
    torch.testing.assert_close(generalized_advantages(*noise, wider)[0][:, :7], generalized_advantages(rewards, values, real)[0])


def test_whitened_values_are_centred_over_real_tokens_alone() -> None:
    torch.manual_seed(2)
    real, values = real_tokens(2, 7, 4, width=7), 5 + 3 * torch.randn(3, 7)
    found = whiten(values.masked_fill(~real, 1e6), real)
    assert found.dtype == torch.float32
    assert float(found[real].mean()) == pytest.approx(0, abs=1e-6)
    assert float(found[real].square().mean()) == pytest.approx(1, abs=1e-5)
    assert not found[~real].any()
    assert whiten(torch.tensor([[3.0, 9.0]]), real_tokens(1, width=2)).tolist() == [[0, 0]]


def test_advantages_of_groups() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    centred = group_advantages(rewards, is_scaled=False)
    assert centred.tolist() == [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]  # exactly 0, although the mean of four 0.1 is rounded
    assert group_advantages(rewards, is_scaled=True)[0].tolist() == pytest.approx((centred[0] / (rewards[0].std() + 1e-4)).tolist())
    assert not group_advantages(torch.full((1, 3), 0.1), is_scaled=True).any()


def test_both_estimates_have_the_divergence_as_their_mean() -> None:
    """The mean is exact: each outcome is weighted by its probability."""
    p, q = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)
    k1 = (p / q).log()
    divergence = float((p * k1).sum())
    assert float((p * k3(k1)).sum()) == pytest.approx(divergence)
    assert bool((k3(k1) >= 0).all())
    assert float(k3(torch.tensor(0.0))) == 0


def test_the_adaptive_coefficient() -> None:
    one = AdaptiveCoefficient(0.15, target=6.0, horizon=10_000)
    assert one.after(6.0, 64).value == 0.15
    assert one.after(6.6, 64).value == pytest.approx(0.15 * (1 + 0.1 * 64 / 10_000))
    assert one.after(600.0, 64) == one.after(7.2, 64)  # the error is clipped to 0.2
    assert one.after(0.0, 64).value == pytest.approx(0.15 * (1 - 0.2 * 64 / 10_000))

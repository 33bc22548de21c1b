"""The distance from a reference: sums of k1, the estimate k3, and the adaptive coefficient."""

import pytest
import torch

from tfkit.alignment.kl import AdaptiveCoefficient, k3, log_ratios


def test_the_sum_of_k1_is_the_log_ratio_of_the_response() -> None:
    torch.manual_seed(1)
    policy, reference = -torch.rand(2, 3, 5, dtype=torch.float64)
    real = torch.arange(5)[None] < torch.tensor([5, 1, 3])[:, None]
    sums = log_ratios(policy, reference, real).sum(1)
    for row, length in enumerate((5, 1, 3)):
        ratio = policy[row, :length].exp().prod() / reference[row, :length].exp().prod()
        assert float(sums[row]) == pytest.approx(float(ratio.log()))
    assert not log_ratios(policy, policy, real).any()


def test_both_estimates_have_the_divergence_as_their_mean() -> None:
    """Exactly, by weighing each outcome with its probability."""
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

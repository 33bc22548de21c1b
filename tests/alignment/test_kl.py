"""The distance from a reference: the estimates k1 and k3, and the adaptive coefficient."""

import pytest
import torch

from tfkit.alignment.advantages import AdaptiveCoefficient, k3


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

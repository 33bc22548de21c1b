"""Estimators of the KL divergence of a policy from its reference, from their log-probabilities of sampled tokens.

They are those of Schulman 2020 (joschu.net/blog/kl-approx.html). k1 is part of the reward, without a gradient; k3 is only logged. As losses
their gradients would differ from that of the divergence (arXiv 2512.21852).
"""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

_LARGEST_ERROR = 0.2  # the clip range of the adaptive coefficient's relative error


def k3(log_ratios: Tensor) -> Tensor:
    """Return k3 from log-ratios, which are k1: e^-k1 - 1 + k1, never negative, with less variance than k1."""
    return (-log_ratios).expm1() + log_ratios


@dataclass(frozen=True)
class AdaptiveCoefficient:
    """The weight of the KL divergence in the reward, adapted so that the divergence approaches `target` (Ziegler et al. 2019,
    arXiv 1909.08593, 2.2).
    """

    value: float
    target: float  # nats per response
    horizon: float  # responses

    def after(self, divergence: float, responses: int) -> Self:
        """Return the coefficient after an iteration with this mean divergence and number of responses."""
        error = min(_LARGEST_ERROR, max(-_LARGEST_ERROR, divergence / self.target - 1))
        return replace(self, value=self.value * (1 + error * responses / self.horizon))

"""The distance of a policy from its reference, by the log-probabilities that both give to the tokens of sampled responses.

The estimators are those of Schulman 2020 (joschu.net/blog/kl-approx.html). k1 goes into a reward, without a gradient; k3 is for the log
alone: as losses their gradients differ from that of the divergence (arXiv 2512.21852).
"""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

_LARGEST_ERROR = 0.2  # of the adaptive coefficient, either way


def k3(ratios: Tensor) -> Tensor:
    """Return k3 of log-ratios, e^-k1 - 1 + k1: never negative, and of less variance than k1."""
    return (-ratios).expm1() + ratios


@dataclass(frozen=True)
class AdaptiveCoefficient:
    """The weight of the divergence in the reward, raised or lowered so that the divergence comes near `target` (Ziegler et al. 2019,
    arXiv 1909.08593, 2.2).
    """

    value: float
    target: float  # nats a response
    horizon: float  # responses

    def after(self, divergence: float, responses: int) -> Self:
        """Return the coefficient after an iteration of this many responses with this mean divergence."""
        error = min(_LARGEST_ERROR, max(-_LARGEST_ERROR, divergence / self.target - 1))
        return replace(self, value=self.value * (1 + error * responses / self.horizon))

"""Advantages of sampled responses: from the mean of a group (GRPO), or from a value function (GAE). Pure functions on tensors.

Tensors of tokens are (B, T): the response tokens of a row come first, and `real` is True at each of them, including the end token.
"""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "none"]

_STD_EPS = 1e-4  # added to a group's standard deviation, as in TRL
_VARIANCE_EPS = 1e-8  # for batches with equal values, such as a single token


def group_advantages(rewards: Tensor, scale: Scale) -> Tensor:
    """Return the advantage of each response over its group: rewards (P, C) of C responses to each of P prompts -> (P, C) in float64.

    GRPO (Shao et al. 2024, arXiv 2402.03300, 4.1): the reward minus the mean of the group. `scale` group: divided by the group's sample
    standard deviation, as there; none: not scaled, as in Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), so that very easy and very hard
    prompts are not overweighted. The advantages of a group of equal rewards are exactly 0.
    """
    rewards = rewards.double()
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)  # their mean may differ from them by rounding
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)
    if scale == "none":
        return centred
    return centred / (rewards.std(dim=1, keepdim=True) + _STD_EPS)


def generalized_advantages(
    rewards: Tensor, values: Tensor, real: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of each token, both (B, T), 0 where `real` is False.

    GAE (Schulman et al. 2015, arXiv 1506.02438, eq. 16), backwards over the real tokens; the value after the last one is 0, since the
    response has ended. `discount` is gamma, `decay` is lambda: at decay 0 an advantage is the TD error, at 1 the Monte Carlo return minus
    the value. Returns are advantages plus values, before any whitening.
    """
    rewards, values = rewards.masked_fill(~real, 0.0), values.masked_fill(~real, 0.0)
    following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), dim=1)
    errors = rewards + discount * following - values  # (B, T)
    advantages = torch.zeros_like(errors)
    total = torch.zeros_like(errors[:, 0])
    for t in reversed(range(errors.shape[1])):
        total = torch.where(real[:, t], errors[:, t] + discount * decay * total, 0.0)
        advantages[:, t] = total
    return advantages, (advantages + values).masked_fill(~real, 0.0)


def whiten(values: Tensor, real: Tensor) -> Tensor:
    """Return the values (B, T) with mean 0 and variance 1 over the real tokens of all rows together, and 0 elsewhere.

    A single real token becomes 0. In float64, returned in the dtype of the values.
    """
    selected = values[real].double()
    centred = values.double() - selected.mean()
    variance = (selected - selected.mean()).square().mean()
    return (centred / (variance + _VARIANCE_EPS).sqrt()).to(values.dtype).masked_fill(~real, 0.0)


def at_ends(scores: Tensor, real: Tensor) -> Tensor:
    """Return rewards (B, T): the score (B,) of each response at its last real token, be it an end token or not; 0 elsewhere."""
    last = real.sum(dim=1) - 1  # (B,)
    rewards = torch.zeros(real.shape, dtype=scores.dtype, device=scores.device)
    return rewards.scatter(1, last[:, None], scores[:, None])

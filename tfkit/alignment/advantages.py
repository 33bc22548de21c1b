"""Advantages of sampled responses: for a response, from its group's mean (GRPO), or for a token, from a value function (GAE in PPO); and
estimators of the KL divergence of the policy from its reference, given the log-probabilities of the sampled tokens under both models.

Tensors of tokens are (B, T): the response tokens of a row come first, and `real` is True at each of them, including the end token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

_STD_EPS = 1e-4  # added to a group's standard deviation, as in TRL
_VARIANCE_EPS = 1e-8  # added to the variance in `whiten`, since the variance of equal values, as of a single one, is 0
_LARGEST_ERROR = 0.2  # the bound to which the relative error of the KL is clipped in `AdaptiveCoefficient`


def group_advantages(rewards: Tensor, *, is_scaled: bool) -> Tensor:
    """Return the advantage of each response over its group: rewards (P, C) of C responses to each of P prompts -> (P, C) in float64.

    The advantage is the reward minus the mean of the group. With `is_scaled` it is divided by the group's sample standard deviation, as in
    GRPO (Shao et al. 2024, arXiv 2402.03300, 4.1); without it, very easy and very hard prompts are not overweighted, as in Dr. GRPO (Liu et
    al. 2025, arXiv 2503.20783). The advantages of a group of equal rewards are exactly 0.
    """
    rewards = rewards.double()
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)  # the mean of equal rewards may differ from them by rounding
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)
    return centred / (rewards.std(dim=1, keepdim=True) + _STD_EPS) if is_scaled else centred


def generalized_advantages(
    rewards: Tensor, values: Tensor, real: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of each token, both (B, T), 0 where `real` is False.

    GAE (Schulman et al. 2015, arXiv 1506.02438, eq. 16), computed backwards over the real tokens; the value after the last one is 0, since
    nothing follows. `discount` is gamma, `decay` is lambda: at decay 0 an advantage is the TD error, at 1 the Monte Carlo return
    minus the value. Returns are advantages, not whitened, plus values.
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

    A single real token becomes 0. The result is computed in float64, and has the dtype of the values.
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


class Credit(NamedTuple):
    """The advantages and returns of the tokens of each response, (n,) each, and the explained variance of the values."""

    advantages: list[Tensor]  # whitened over the tokens of all responses
    returns: list[Tensor]  # the advantages before whitening, plus the values
    explained_variance: float | None  # 1 - Var(returns - values) / Var(returns); None if all returns are equal


def token_credit(
    scores: Tensor, log_ratios: Sequence[Tensor], values: Sequence[Tensor], *, beta: float, gamma: float, gae_lambda: float
) -> Credit:
    """Return the Credit of the tokens of an iteration's responses, computed in float64.

    `scores` (N,): one per response. For each token of a response, `log_ratios` (n,) has log policy - log reference, and `values` (n,) the
    value of the text before the token. The reward of a token is -beta times its log-ratio, plus the response's score at the last token
    (InstructGPT, arXiv 2203.02155, 3.5).
    """
    sizes = torch.tensor([len(of_response) for of_response in log_ratios])
    padded_ratios, padded_values = (pad_sequence([row.double() for row in parts], batch_first=True) for parts in (log_ratios, values))
    real = torch.arange(padded_ratios.shape[1]) < sizes[:, None]  # (N, T)
    rewards = at_ends(scores.double(), real) - beta * padded_ratios
    advantages, returns = generalized_advantages(rewards, padded_values, real, discount=gamma, decay=gae_lambda)
    variance, error_variance = (float(numbers[real].var(correction=0)) for numbers in (returns, returns - padded_values))
    white, counts = whiten(advantages, real), sizes.tolist()
    return Credit(
        [row[:count] for row, count in zip(white, counts, strict=True)],
        [row[:count] for row, count in zip(returns, counts, strict=True)],
        1 - error_variance / variance if variance else None,
    )


def k3(log_ratios: Tensor) -> Tensor:
    """Return k3 from log-ratios, which are k1: e^-k1 - 1 + k1, never negative, with less variance than k1.

    k1 and k3 are estimators of the KL divergence (Schulman 2020, joschu.net/blog/kl-approx.html). k1 is part of the reward, without a
    gradient; k3 is only logged. As a loss, neither would have the gradient of the divergence itself (arXiv 2512.21852).
    """
    return (-log_ratios).expm1() + log_ratios


@dataclass(frozen=True)
class AdaptiveCoefficient:
    """The weight of the KL in the reward, adapted so that the KL approaches `target` (Ziegler et al. 2019, arXiv 1909.08593, 2.2)."""

    value: float
    target: float  # nats per response
    horizon: float  # responses after which a relative error e of the KL has changed the value by about the factor 1 + e

    def after(self, divergence: float, responses: int) -> Self:
        """Return the coefficient after an iteration of `responses` responses. `divergence`: their mean KL, in nats per response."""
        error = min(_LARGEST_ERROR, max(-_LARGEST_ERROR, divergence / self.target - 1))
        return replace(self, value=self.value * (1 + error * responses / self.horizon))

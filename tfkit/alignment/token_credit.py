"""The credit of each token of a response in PPO: rewards minus the KL penalty, advantages by GAE, and returns."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tfkit.alignment.advantages import at_ends, generalized_advantages, whiten


class Credit(NamedTuple):
    """The advantages and returns of the tokens of each response, (n,) each, and the explained variance of the values."""

    advantages: list[Tensor]  # whitened over the tokens of all responses
    returns: list[Tensor]  # not whitened
    explained_variance: float | None  # 1 - Var(returns - values) / Var(returns); None if all returns are equal


def token_credit(
    scores: Tensor, log_ratios: Sequence[Tensor], values: Sequence[Tensor], *, beta: float, gamma: float, gae_lambda: float
) -> Credit:
    """Credit the tokens of an iteration's responses, in float64.

    `scores` (N,): of the responses; `log_ratios` and `values` (n,): of the tokens of each, log policy - log reference and the value before
    the token. The reward of a token is -beta times its log-ratio, plus the score at the last one (InstructGPT, arXiv 2203.02155, 3.5).
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

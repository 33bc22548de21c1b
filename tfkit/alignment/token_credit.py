"""The credit of each token of a response in PPO: rewards less the distance from the reference, advantages by GAE, returns."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tfkit.alignment.advantages import at_ends, generalized_advantages, whiten


class Credit(NamedTuple):
    """The numbers of the tokens of each response, (n,) each, and how much of the returns the values explained."""

    advantages: list[Tensor]  # whitened over the tokens of all responses
    returns: list[Tensor]  # as they are
    explained_variance: float | None  # 1 - Var(returns - values) / Var(returns); None where all returns are equal


def token_credit(
    scores: Tensor, ratios: Sequence[Tensor], values: Sequence[Tensor], *, beta: float, gamma: float, gae_lambda: float
) -> Credit:
    """Credit the tokens of the responses of an iteration, in float64.

    `scores` (N,) of the responses; `ratios` and `values` (n,) of the tokens of each: log policy - log reference, and the value before it.
    The reward of a token is -beta times its ratio, and of the last one the score beside (InstructGPT, arXiv 2203.02155, section 3.5).
    """
    sizes = torch.tensor([len(one) for one in ratios])
    padded_ratios, padded_values = (pad_sequence([one.double() for one in parts], batch_first=True) for parts in (ratios, values))
    real = torch.arange(padded_ratios.shape[1]) < sizes[:, None]  # (N, T)
    rewards = at_ends(scores.double(), real) - beta * padded_ratios
    advantages, returns = generalized_advantages(rewards, padded_values, real, discount=gamma, decay=gae_lambda)
    spread, errors = (float(numbers[real].var(correction=0)) for numbers in (returns, returns - padded_values))
    white, counts = whiten(advantages, real), sizes.tolist()
    return Credit(
        [row[:count] for row, count in zip(white, counts, strict=True)],
        [row[:count] for row, count in zip(returns, counts, strict=True)],
        1 - errors / spread if spread else None,
    )

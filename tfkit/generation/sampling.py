"""From logits to a token. Pure functions on (..., V); excluded entries are -inf. The order is temperature, top-k, top-p, as everywhere."""

import torch
from torch import Tensor

from tfkit.recipe.schema import GenerationSection

_EXCLUDED = float("-inf")


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude all but the k likeliest; those that tie with the last of them stay (transformers' TopKLogitsWarper)."""
    threshold = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < threshold, _EXCLUDED)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Exclude the unlikely tail: the fewest likeliest tokens that hold at least the share p stay, and never fewer than one.

    Nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751); transformers' TopPLogitsWarper.
    """
    ascending, order = logits.sort(dim=-1)
    tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p  # (..., V)
    tail[..., -1] = False
    return logits.masked_fill(tail.scatter(-1, order, tail), _EXCLUDED)


def probabilities(logits: Tensor, settings: GenerationSection) -> Tensor:
    """What a token is drawn from, float32 (..., V). The temperature must not be 0, which is greedy decoding."""
    logits = logits.float() / settings.temperature
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    return logits.softmax(dim=-1)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The tokens (B,) at which the cumulated probabilities (B, V) pass the uniform numbers (B,) of [0, 1).

    One number a token makes a row's draws independent of the rows beside it and of the device.
    """
    cumulated = probabilities.double().cumsum(dim=-1)  # (B, V)
    total = cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, uniforms.to(cumulated)[:, None] * total, right=True)  # (B, 1)
    # A uniform number just below 1 may round up to the total; the last token with any probability is then meant.
    last = (cumulated < total).sum(dim=-1, keepdim=True)
    return torch.minimum(tokens, last).squeeze(-1)

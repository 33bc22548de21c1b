"""Log-probabilities of tokens from hidden states, without ever holding more logits than a bound.

With a vocabulary of 50,000 the logits outweigh the model's activations. They are made in blocks of rows, turned at once into what the
backward pass needs, softmax minus one-hot, and kept only if all of them fit the bound; else they are made again. The softmax runs
in float32 over pieces that stay in the processor's cache, and the two matrix products of the backward pass carry the gradient's scale,
so that nothing passes over the logits a second time.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = 128 * 2**20  # keep, or make at once, at most this many bytes of logits
_PIECE = 2**20  # logits in one softmax: 4 MiB in float32


class Head(Protocol):
    """What a language model's head offers to a loss."""

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, D)."""


def token_log_probs(head: Head, hidden: Tensor, labels: Tensor) -> Tensor:
    """The log-probability of each label: hidden (N, D), labels (N,) of ids -> (N,) in float32, in nats."""
    if torch.is_grad_enabled():
        result: Tensor = _TokenLogProbs.apply(hidden, head.weight, labels)  # type: ignore[no-untyped-call]
        return result
    return torch.cat([_log_probs(rows, head.weight, ids) for rows, ids in _blocks(hidden, labels, head.weight)])


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, labels)
        blocks = _blocks(hidden, labels, weight)
        if len(blocks) > 1:
            ctx.errors = None
            return torch.cat([_log_probs(rows, weight, ids) for rows, ids in blocks])
        log_probs, ctx.errors = _log_probs_and_errors(hidden, weight, labels)
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, labels = ctx.saved_tensors
        scale = -grad[:, None].to(hidden.dtype)
        if ctx.errors is not None:
            errors, ctx.errors = ctx.errors, None  # else they would be held until the whole backward pass is over
            return scale * (errors @ weight), errors.t() @ (scale * hidden), None
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)  # bf16 sums over many blocks would lose what is small
        done = 0
        for rows, ids in _blocks(hidden, labels, weight):
            here = slice(done, done + len(rows))
            errors = _log_probs_and_errors(rows, weight, ids)[1]
            grad_hidden[here] = scale[here] * (errors @ weight)
            grad_weight += errors.t() @ (scale[here] * rows)
            done += len(rows)
        return grad_hidden, grad_weight.to(weight.dtype), None


def _blocks(hidden: Tensor, labels: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows and labels in blocks whose logits fit the bound."""
    rows = max(1, LOGITS_BYTES // (len(weight) * hidden.element_size()))
    return list(zip(hidden.split(rows), labels.split(rows), strict=True))


def _pieces(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, _PIECE // logits.shape[1])
    return list(zip(logits.split(rows), labels[:, None].split(rows), strict=True))


def _log_probs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(n, D), (V, D), (n,) -> (n,)."""
    logits = hidden @ weight.t()  # (n, V)
    return torch.cat([piece.log_softmax(-1, dtype=torch.float32).gather(1, ids) for piece, ids in _pieces(logits, labels)])[:, 0]


def _log_probs_and_errors(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities (n,), and softmax minus one-hot (n, V) in the logits' own type and place."""
    logits = hidden @ weight.t()  # (n, V)
    found = []
    for piece, ids in _pieces(logits, labels):
        values = piece.log_softmax(-1, dtype=torch.float32)
        found.append(values.gather(1, ids))
        values.exp_()
        values.scatter_add_(1, ids, values.new_full(ids.shape, -1.0))  # before rounding: 1 - p stays exact for confident tokens
        piece.copy_(values)
    return torch.cat(found)[:, 0], logits

"""Losses of a distribution over the vocabulary, one number for each hidden state, without ever holding more logits than a bound.

With a vocabulary of 50,000 the logits outweigh the model's activations. They are computed in blocks of rows, replaced at once by what the
backward pass needs, the loss's gradient by the logits, and kept only if all of them fit the bound; else they are computed again. The
softmax runs over pieces that fit the processor's cache, and the two matrix products of the backward pass carry the gradient's scale, so
that nothing passes over the logits a second time.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = 128 * 2**20  # keep, or compute at once, at most this many bytes of logits
_PIECE = 2**20  # logits in one softmax on a CPU: 4 MiB in float32


class Head(Protocol):
    """A language model's head: softcap(prepare(hidden) weight^T + bias)."""

    softcap: float | None

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, D)."""

    @property
    def bias(self) -> Tensor | None:
        """One for each entry (V,), or None."""

    def prepare(self, hidden: Tensor) -> Tensor:
        """The input of the output matrix, (N, D) -> (N, D)."""


class BlockLoss(Protocol):
    """A loss of n rows of logits."""

    def __call__(self, logits: Tensor, *targets: Tensor, gradient: bool) -> Tensor:
        """The loss of each row (n,) by its logits (n, V) and targets (n, ...); with `gradient` the logits are overwritten by the loss's
        gradient by the uncapped logits (`overwrite`).
        """


def vocabulary_loss(head: Head, hidden: Tensor, loss: BlockLoss, *targets: Tensor, target_bytes: int = 0) -> Tensor:
    """The loss of each row: hidden (N, D), targets (N, ...) that get no gradient -> (N,). `target_bytes`: of a row, beside its logits."""
    hidden, weight = head.prepare(hidden), head.weight
    rows = block_rows(weight, hidden, target_bytes)
    if torch.is_grad_enabled():
        result: Tensor = _VocabularyLoss.apply(hidden, weight, head.bias, head.softcap, loss, rows, *targets)  # type: ignore[no-untyped-call]
        return result
    return _losses(hidden, weight, head.bias, head.softcap, loss, rows, targets)


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, loss: BlockLoss, rows: int, *targets: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, *targets)
        ctx.cap, ctx.loss, ctx.rows, ctx.errors = cap, loss, rows, None
        if len(hidden) > rows:
            return _losses(hidden, weight, bias, cap, loss, rows, targets)
        ctx.errors = make_logits(hidden, weight, bias, cap)
        return loss(ctx.errors, *targets, gradient=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, *targets = ctx.saved_tensors
        of_weight, of_bias = ctx.needs_input_grad[1:3]  # not of frozen ones
        without = (None,) * (3 + len(targets))  # the cap, the loss, the rows, the targets
        scale = grad[:, None].to(hidden.dtype)
        if ctx.errors is not None:
            errors, ctx.errors = ctx.errors, None  # else they would be held until the whole backward pass is over
            grad_weight = errors.t() @ (scale * hidden) if of_weight else None
            grad_bias = (errors.t() @ scale)[:, 0] if of_bias else None
            return scale * (errors @ weight), grad_weight, grad_bias, *without
        grad_hidden = torch.empty_like(hidden)
        wide = torch.promote_types(weight.dtype, torch.float32)  # bf16 sums over many blocks would lose what is small
        grad_weight = torch.zeros_like(weight, dtype=wide) if of_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if of_bias else None
        done = 0
        for block in split_rows(ctx.rows, hidden, *targets):
            here = slice(done, done + len(block[0]))
            errors = make_logits(block[0], weight, bias, ctx.cap)
            ctx.loss(errors, *block[1:], gradient=True)
            grad_hidden[here] = scale[here] * (errors @ weight)
            if grad_weight is not None:
                grad_weight += errors.t() @ (scale[here] * block[0])
            if grad_bias is not None:
                grad_bias += (errors.t() @ scale[here])[:, 0]
            done += len(block[0])
        grad_weight, grad_bias = (None if one is None else one.to(weight.dtype) for one in (grad_weight, grad_bias))
        return grad_hidden, grad_weight, grad_bias, *without


def _losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, loss: BlockLoss, rows: int, targets: Sequence[Tensor]
) -> Tensor:
    blocks = split_rows(rows, hidden, *targets)
    return torch.cat([loss(make_logits(block[0], weight, bias, cap), *block[1:], gradient=False) for block in blocks])


def block_rows(weight: Tensor, hidden: Tensor, target_bytes: int = 0) -> int:
    """The most rows whose logits, and `target_bytes` for each beside them, fit the bound; at least 1."""
    return max(1, LOGITS_BYTES // (len(weight) * hidden.element_size() + target_bytes))


def make_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    """(n, D), (V, D), (V,) -> (n, V)."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def split_rows(rows: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The tensors (N, ...) in blocks of at most this many rows."""
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def pieces(logits: Tensor, *others: Tensor, most: int | None = None) -> list[tuple[Tensor, ...]]:
    """Logits (n, V) and others (n, ...) in pieces for one softmax each: on a CPU of at most `most` logits, so that its caches hold them; on
    a GPU, where each start costs, whole.
    """
    most = most or _PIECE
    return split_rows(max(1, most // logits.shape[1] if logits.device.type == "cpu" else len(logits)), logits, *others)


def overwrite(logits: Tensor, errors: Tensor, cap: float | None) -> None:
    """Replace a piece of logits by the loss's gradient by the uncapped ones: `errors` times the slope of the cap, 1 - (logit / cap)^2."""
    if cap is not None:
        errors.mul_(1 - (logits.to(errors.dtype) / cap).square_())
    logits.copy_(errors)

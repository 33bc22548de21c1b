"""Losses of a distribution over the vocabulary, one per hidden state, with bounded memory for logits.

With a vocabulary of 50,000 the logits take more memory than the activations. They are computed in blocks of rows and overwritten in place
by the gradient of the loss with respect to them, which is kept for the backward pass if it fits the bound and recomputed there if not. The
softmax runs over pieces that fit the CPU's cache, and the upstream gradient is folded into the two matrix products of the backward pass,
so that there is no second pass over the logits.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = 128 * 2**20  # the most bytes of logits that are held at a time
_BLOCK = 2048  # entries in a block of the vocabulary
_PIECE = 2**20  # logits in one softmax on a CPU: 4 MiB in float32


class Head(Protocol):
    """A language model's head: softcap(prepare(hidden) weight^T + bias)."""

    softcap: float | None

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, D)."""

    @property
    def bias(self) -> Tensor | None:
        """The bias of each vocabulary entry (V,), or None."""

    def prepare(self, hidden: Tensor) -> Tensor:
        """Return the input of the output matrix, (N, D) -> (N, D)."""


class BlockLoss(Protocol):
    """A loss over n rows of logits."""

    def __call__(self, logits: Tensor, *targets: Tensor, gradient: bool) -> Tensor:
        """Return the loss of each row (n,) from its logits (n, V) and targets (n, ...); with `gradient`, overwrite the logits by the loss's
        gradient with respect to the uncapped logits (`overwrite`).
        """


def vocabulary_loss(head: Head, hidden: Tensor, loss: BlockLoss, *targets: Tensor, target_bytes: int = 0) -> Tensor:
    """Return the loss of each row: hidden (N, D), targets (N, ...) without gradients -> (N,). `target_bytes`: per row, beside logits."""
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
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        no_gradients = (None,) * (3 + len(targets))  # for the cap, the loss, the rows, the targets
        scale = grad[:, None].to(hidden.dtype)
        if ctx.errors is not None:
            errors, ctx.errors = ctx.errors, None  # otherwise the context would hold them until the end of the backward pass
            grad_weight = _weight_gradient(errors, scale * hidden) if needs_weight else None
            grad_bias = (errors.t() @ scale)[:, 0] if needs_bias else None
            return scale * (errors @ weight), grad_weight, grad_bias, *no_gradients
        grad_hidden = torch.empty_like(hidden)
        wide = torch.promote_types(weight.dtype, torch.float32)  # sums of many blocks in bf16 would lose small addends
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias else None
        done = 0
        for block in split_rows(ctx.rows, hidden, *targets):
            rows = slice(done, done + len(block[0]))
            errors = make_logits(block[0], weight, bias, ctx.cap)
            ctx.loss(errors, *block[1:], gradient=True)
            grad_hidden[rows] = scale[rows] * (errors @ weight)
            if grad_weight is not None:
                grad_weight += errors.t() @ (scale[rows] * block[0])
            if grad_bias is not None:
                grad_bias += (errors.t() @ scale[rows])[:, 0]
            done += len(block[0])
        grad_weight, grad_bias = (None if sums is None else sums.to(weight.dtype) for sums in (grad_weight, grad_bias))
        return grad_hidden, grad_weight, grad_bias, *no_gradients


def _losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, loss: BlockLoss, rows: int, targets: Sequence[Tensor]
) -> Tensor:
    blocks = split_rows(rows, hidden, *targets)
    return torch.cat([loss(make_logits(block[0], weight, bias, cap), *block[1:], gradient=False) for block in blocks])


def block_rows(weight: Tensor, hidden: Tensor, target_bytes: int = 0) -> int:
    """Return the largest number of rows whose logits and `target_bytes` fit the bound; at least 1."""
    return max(1, LOGITS_BYTES // (len(weight) * hidden.element_size() + target_bytes))


def needs_blocks(weight: Tensor, hidden: Tensor) -> bool:
    """Whether vocabulary_blocks.py computes the loss in training, given the output matrix (V, D) and hidden states (N, D)."""
    return weight.device.type == "cpu" and len(weight) > _BLOCK and len(hidden) > block_rows(weight, hidden)


def make_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    """Compute the logits: (n, D), (V, D), (V,) -> (n, V)."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _weight_gradient(errors: Tensor, hidden: Tensor) -> Tensor:
    """Return the gradient of the output matrix: (n, V), (n, D) -> (V, D). For bf16 on a CPU, blocks take less time than the whole."""
    if errors.device.type != "cpu" or errors.dtype != torch.bfloat16:
        return errors.t() @ hidden
    gradient = hidden.new_empty(errors.shape[1], hidden.shape[1])
    for part, of_gradient in zip(errors.split(_BLOCK, dim=1), gradient.split(_BLOCK), strict=True):
        torch.mm(part.t(), hidden, out=of_gradient)
    return gradient


def entry_blocks(weight: Tensor) -> list[tuple[int, int]]:
    """Return the first entry of each block of the vocabulary, and the first one after it."""
    return [(begin, min(begin + _BLOCK, len(weight))) for begin in range(0, len(weight), _BLOCK)]


def split_rows(rows: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split tensors (N, ...) into blocks of at most this many rows."""
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def pieces(logits: Tensor, *others: Tensor, most: int | None = None) -> list[tuple[Tensor, ...]]:
    """Split logits (n, V) and other tensors (n, ...) into pieces for one softmax each: on a CPU of at most `most` logits, which fit its
    caches; on a GPU, where each kernel launch costs, a single piece.
    """
    most = most or _PIECE
    return split_rows(max(1, most // logits.shape[1] if logits.device.type == "cpu" else len(logits)), logits, *others)


def overwrite(logits: Tensor, errors: Tensor, cap: float | None) -> None:
    """Overwrite logits by the gradient with respect to the uncapped ones: `errors` times the slope of the cap, 1 - (logit / cap)^2."""
    if cap is not None:
        errors.mul_(1 - (logits.to(errors.dtype) / cap).square_())
    logits.copy_(errors)

"""The cross-entropy of a large vocabulary on a CPU, in blocks of its entries, for logits that are too many to be kept.

Each is computed twice, as blocks of rows are (vocabulary_loss.py), but gives a part of the gradient of the output matrix at once, so no
sums over blocks of a whole matrix in float32 are read and written. The denominators of the softmax are collected on the way.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.objectives.vocabulary_loss import Head, entry_blocks, make_logits, overwrite, pieces


def block_cross_entropy(head: Head, hidden: Tensor, labels: Tensor, smoothing: float, temperature: float) -> Tensor:
    """Return the loss of each row in float32, as log_probs.py: prepared hidden (N, D), labels (N,) -> (N,)."""
    given = head.weight, head.bias, labels, head.softcap, smoothing, temperature
    losses: Tensor = _BlockCrossEntropy.apply(hidden, *given)  # type: ignore[no-untyped-call]
    return losses


class _BlockCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        cap: float | None,
        smoothing: float,
        temperature: float,
    ) -> Tensor:
        log_sum, of_label, total = torch.full((len(hidden),), float("-inf")), torch.zeros(len(hidden)), torch.zeros(len(hidden))
        for begin, end in entry_blocks(weight):
            logits = make_logits(hidden, weight[begin:end], None if bias is None else bias[begin:end], cap)
            sums = []
            for piece, place, is_inside in pieces(logits, *_places(labels, begin, end)):
                values = piece.float() if temperature == 1 else piece.float() / temperature
                sums.append((values.logsumexp(1), (values.gather(1, place) * is_inside)[:, 0], values.sum(1) if smoothing else None))
            log_sum = torch.logaddexp(log_sum, torch.cat([one for one, _, _ in sums]))
            of_label += torch.cat([one for _, one, _ in sums])
            if smoothing:
                total += torch.cat([one for _, _, one in sums if one is not None])
        ctx.save_for_backward(hidden, weight, bias, labels, log_sum)
        ctx.cap, ctx.smoothing, ctx.temperature = cap, smoothing, temperature
        return log_sum - (1 - smoothing) * of_label - smoothing / len(weight) * total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, log_sum = ctx.saved_tensors
        grad_weight, grad_bias = (
            torch.empty_like(one) if needed else None for one, needed in zip((weight, bias), ctx.needs_input_grad[1:3], strict=True)
        )
        grad_hidden, scale = torch.zeros(hidden.shape), grad[:, None].to(hidden.dtype)
        scaled_hidden = scale * hidden
        for begin, end in entry_blocks(weight):
            errors = make_logits(hidden, weight[begin:end], None if bias is None else bias[begin:end], ctx.cap)
            for piece, log_sums, place, is_inside in pieces(errors, log_sum[:, None], *_places(labels, begin, end)):
                values = (piece.float() if ctx.temperature == 1 else piece.float() / ctx.temperature).sub_(log_sums).exp_()
                if ctx.smoothing:
                    values.sub_(ctx.smoothing / len(weight))
                values.scatter_add_(1, place, is_inside * (ctx.smoothing - 1.0))  # before rounding: 1 - p of confident tokens is exact
                overwrite(piece, values if ctx.temperature == 1 else values.div_(ctx.temperature), ctx.cap)
            grad_hidden += errors @ weight[begin:end]
            if grad_weight is not None:
                torch.mm(errors.t(), scaled_hidden, out=grad_weight[begin:end])
            if grad_bias is not None:
                torch.mv(errors.t(), scale[:, 0], out=grad_bias[begin:end])
        return scale * grad_hidden.to(hidden.dtype), grad_weight, grad_bias, *(None,) * 4


def _places(labels: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return the place of each label in a block, and whether it is in it, (N, 1) each; the place of one that is not means nothing."""
    return (labels - begin).clamp(0, end - begin - 1)[:, None], ((labels >= begin) & (labels < end))[:, None]

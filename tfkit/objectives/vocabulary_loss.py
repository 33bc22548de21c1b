"""Losses of predictions over the vocabulary, one loss per hidden state (here called a row), with bounded memory for logits.

With a vocabulary of 50,000 the logits can take more memory than the activations, so they are computed in blocks of rows. In training, each
block is overwritten in place by the loss's gradient with respect to it; if all logits fit LOGITS_BYTES, this gradient is kept for the
backward pass, otherwise computed again there. On a CPU, the softmax runs over pieces that fit the cache. The upstream gradient is folded
into the two matrix products of the backward pass, so that there is no second pass over the logits.

In training on a CPU, a cross-entropy whose logits exceed LOGITS_BYTES is computed in blocks of 2,048 vocabulary entries instead. Each
block is also computed twice, but it gives a finished part of the output matrix's gradient, whereas each block of rows would add to
a float32 sum as large as the whole matrix. The forward pass adds up the softmax's denominators over the blocks.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.model.head import VocabularyHead

LOGITS_BYTES = 128 * 2**20  # the most bytes of logits in a block of two or more rows
_BLOCK = 2048  # vocabulary entries in a block
_PIECE = 2**20  # by default, the most logits in one softmax on a CPU: 4 MiB in float32


class BlockLoss(Protocol):
    """A loss over n rows of logits."""

    def __call__(self, logits: Tensor, *targets: Tensor, gradient: bool) -> Tensor:
        """Return the loss of each row (n,) from its logits (n, V) and targets (n, ...); with `gradient`, overwrite the logits by the loss's
        gradient with respect to the logits before the soft cap (`overwrite`).
        """


def vocabulary_loss(head: VocabularyHead, hidden: Tensor, loss: BlockLoss, *targets: Tensor, target_bytes: int = 0) -> Tensor:
    """Return the loss of each row: hidden (N, D), targets (N, ...) without gradients -> (N,). `target_bytes`: bytes per row that `loss`
    needs in addition to the logits.
    """
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
            errors, ctx.errors = ctx.errors, None  # otherwise `ctx` would hold them until the end of the backward pass
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
    """Return the largest number of rows whose logits and `target_bytes` fit LOGITS_BYTES; at least 1."""
    return max(1, LOGITS_BYTES // (len(weight) * hidden.element_size() + target_bytes))


def needs_blocks(weight: Tensor, hidden: Tensor) -> bool:
    """Whether training computes the cross-entropy in blocks of vocabulary entries, given output matrix (V, D) and hidden states (N, D)."""
    return weight.device.type == "cpu" and len(weight) > _BLOCK and len(hidden) > block_rows(weight, hidden)


def make_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    """Compute the logits, soft-capped if `cap` is not None: (n, D), (V, D), (V,) -> (n, V)."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _weight_gradient(errors: Tensor, hidden: Tensor) -> Tensor:
    """Return the gradient of the output matrix: (n, V), (n, D) -> (V, D). For bf16 on a CPU, blocks of entries take less time."""
    if errors.device.type != "cpu" or errors.dtype != torch.bfloat16:
        return errors.t() @ hidden
    gradient = hidden.new_empty(errors.shape[1], hidden.shape[1])
    for part, of_gradient in zip(errors.split(_BLOCK, dim=1), gradient.split(_BLOCK), strict=True):
        torch.mm(part.t(), hidden, out=of_gradient)
    return gradient


def entry_blocks(weight: Tensor) -> list[tuple[int, int]]:
    """Return the bounds of each block of the vocabulary: its first entry, and the first entry after it."""
    return [(begin, min(begin + _BLOCK, len(weight))) for begin in range(0, len(weight), _BLOCK)]


def split_rows(rows: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Split tensors (N, ...) into blocks of at most `rows` rows."""
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def pieces(logits: Tensor, *others: Tensor, most: int | None = None) -> list[tuple[Tensor, ...]]:
    """Split logits (n, V) and other tensors (n, ...) into pieces for one softmax each. On a CPU, a piece has at most `most` logits (None:
    _PIECE), which fit its caches; on a GPU there is one piece, since each kernel launch takes time.
    """
    most = most or _PIECE
    return split_rows(max(1, most // logits.shape[1] if logits.device.type == "cpu" else len(logits)), logits, *others)


def overwrite(logits: Tensor, errors: Tensor, cap: float | None) -> None:
    """Overwrite logits by the gradient with respect to those before the soft cap: `errors` times the cap's slope, 1 - (logit / cap)^2."""
    if cap is not None:
        errors.mul_(1 - (logits.to(errors.dtype) / cap).square_())
    logits.copy_(errors)


def block_cross_entropy(head: VocabularyHead, hidden: Tensor, labels: Tensor, smoothing: float, temperature: float) -> Tensor:
    """Return each row's cross-entropy in float32, computed in blocks of entries: hidden (N, D) from `head.prepare`, labels (N,) -> (N,)."""
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
                values.scatter_add_(1, place, is_inside * (ctx.smoothing - 1.0))  # in float32, so that 1 - p is exact if p is near 1
                overwrite(piece, values if ctx.temperature == 1 else values.div_(ctx.temperature), ctx.cap)
            grad_hidden += errors @ weight[begin:end]
            if grad_weight is not None:
                torch.mm(errors.t(), scaled_hidden, out=grad_weight[begin:end])
            if grad_bias is not None:
                torch.mv(errors.t(), scale[:, 0], out=grad_bias[begin:end])
        return scale * grad_hidden.to(hidden.dtype), grad_weight, grad_bias, *(None,) * 4


def _places(labels: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return each label's index in the block of entries from `begin` to `end`, and whether it is in it (else the index is void): (N, 1)."""
    return (labels - begin).clamp(0, end - begin - 1)[:, None], ((labels >= begin) & (labels < end))[:, None]

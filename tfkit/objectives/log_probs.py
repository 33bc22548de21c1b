"""Log-probabilities of tokens from hidden states, without ever holding more logits than a bound.

With a vocabulary of 50,000 the logits outweigh the model's activations. They are made in blocks of rows, turned at once into what the
backward pass needs, softmax minus the target, and kept only if all of them fit the bound; else they are made again. The softmax runs
in float32 over pieces that stay in the processor's cache, and the two matrix products of the backward pass carry the gradient's scale,
so that nothing passes over the logits a second time.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = 128 * 2**20  # keep, or make at once, at most this many bytes of logits
_PIECE = 2**20  # logits in one softmax on a CPU: 4 MiB in float32


class Head(Protocol):
    """The part of a language model's head that a loss needs: softcap(prepare(hidden) weight^T + bias)."""

    softcap: float | None

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, D)."""

    @property
    def bias(self) -> Tensor | None:
        """One for each entry (V,), or None."""

    def prepare(self, hidden: Tensor) -> Tensor:
        """Return the operand of the output matrix, (N, D) -> (N, D)."""


def token_log_probs(head: Head, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The log-probability of each label: hidden (N, D), labels (N,) of ids -> (N,) in float32, in nats.

    With `smoothing` e it is that of a target with the share 1 - e on the label and e / V on each of all V entries, the label among them:
    PyTorch's `label_smoothing`. tensor2tensor's gives the label 1 - e, and e / (V - 1) to each other entry.
    """
    hidden = head.prepare(hidden)
    if torch.is_grad_enabled():
        result: Tensor = _TokenLogProbs.apply(hidden, head.weight, head.bias, head.softcap, labels, smoothing)  # type: ignore[no-untyped-call]
        return result
    blocks = _blocks(hidden, labels, head.weight)
    return torch.cat([_log_probs(make_logits(rows, head.weight, head.bias, head.softcap), ids, smoothing) for rows, ids in blocks])


class TokenScores(NamedTuple):
    """The scores of predictions without a gradient, each (N,)."""

    log_probs: Tensor  # of the label
    mean_log_probs: Tensor  # over all entries: what smoothing adds
    right: Tensor  # whether the label is the likeliest entry


@torch.no_grad()
def token_scores(head: Head, hidden: Tensor, labels: Tensor) -> TokenScores:
    """The scores of each label in one pass over the logits: hidden (N, D), labels (N,); no gradient."""
    found = []
    for rows, ids in _blocks(head.prepare(hidden), labels, head.weight):
        for piece, label in _pieces(make_logits(rows, head.weight, head.bias, head.softcap), ids):
            values = piece.log_softmax(-1, dtype=torch.float32)
            found.append((values.gather(1, label)[:, 0], values.mean(-1), piece.argmax(-1) == label[:, 0]))
    return TokenScores(*(torch.cat(part) for part in zip(*found, strict=True)))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, labels: Tensor, smoothing: float
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.cap, ctx.smoothing = cap, smoothing
        blocks = _blocks(hidden, labels, weight)
        if len(blocks) > 1:
            ctx.errors = None
            return torch.cat([_log_probs(make_logits(rows, weight, bias, cap), ids, smoothing) for rows, ids in blocks])
        log_probs, ctx.errors = _log_probs_and_errors(make_logits(hidden, weight, bias, cap), labels, cap, smoothing)
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, bias, labels = ctx.saved_tensors
        of_weight, of_bias = ctx.needs_input_grad[1:3]  # not of frozen ones
        scale = -grad[:, None].to(hidden.dtype)
        if ctx.errors is not None:
            errors, ctx.errors = ctx.errors, None  # else they would be held until the whole backward pass is over
            grad_weight = errors.t() @ (scale * hidden) if of_weight else None
            grad_bias = (errors.t() @ scale)[:, 0] if of_bias else None
            return scale * (errors @ weight), grad_weight, grad_bias, None, None, None
        grad_hidden = torch.empty_like(hidden)
        # In float32: bf16 sums over many blocks would lose what is small.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if of_bias else None
        done = 0
        for rows, ids in _blocks(hidden, labels, weight):
            here = slice(done, done + len(rows))
            errors = _log_probs_and_errors(make_logits(rows, weight, bias, ctx.cap), ids, ctx.cap, ctx.smoothing)[1]
            grad_hidden[here] = scale[here] * (errors @ weight)
            if grad_weight is not None:
                grad_weight += errors.t() @ (scale[here] * rows)
            if grad_bias is not None:
                grad_bias += (errors.t() @ scale[here])[:, 0]
            done += len(rows)
        grad_weight, grad_bias = (None if one is None else one.to(weight.dtype) for one in (grad_weight, grad_bias))
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _blocks(hidden: Tensor, labels: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows and labels in blocks whose logits fit the bound."""
    rows = max(1, LOGITS_BYTES // (len(weight) * hidden.element_size()))
    return list(zip(hidden.split(rows), labels.split(rows), strict=True))


def make_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    """(n, D), (V, D), (V,) -> (n, V)."""
    logits = hidden @ weight.t()
    if bias is not None:
        logits += bias
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _pieces(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = piece_rows(logits, _PIECE)
    return list(zip(logits.split(rows), labels[:, None].split(rows), strict=True))


def piece_rows(logits: Tensor, most: int) -> int:
    """Rows of (n, V) in one softmax: on a CPU so many that its caches hold `most` logits; on a GPU, where each start costs, all of them."""
    return max(1, most // logits.shape[1] if logits.device.type == "cpu" else len(logits))


def _log_probs(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """(n, V), (n,) -> (n,)."""
    pieces = ((piece.log_softmax(-1, dtype=torch.float32), ids) for piece, ids in _pieces(logits, labels))
    return torch.cat([_smoothed(values, ids, smoothing) for values, ids in pieces])[:, 0]


def _smoothed(values: Tensor, ids: Tensor, smoothing: float) -> Tensor:
    """Of log-probabilities (n, V) the share of the label (n, 1), and of all entries together: (n, 1)."""
    found = values.gather(1, ids)
    return found if not smoothing else (1 - smoothing) * found + smoothing * values.mean(-1, keepdim=True)


def _log_probs_and_errors(logits: Tensor, labels: Tensor, cap: float | None, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The log-probabilities (n,), and their gradient's negative by the uncapped logits (n, V), in the logits' own type and place.

    That is softmax minus the target's shares; under a cap times the slope of the cap, 1 - (logit / cap)^2.
    """
    found = []
    for piece, ids in _pieces(logits, labels):
        values = piece.log_softmax(-1, dtype=torch.float32)
        found.append(_smoothed(values, ids, smoothing))
        values.exp_()
        if smoothing:
            values.sub_(smoothing / logits.shape[1])
        values.scatter_add_(1, ids, values.new_full(ids.shape, smoothing - 1.0))  # before rounding: 1 - p stays exact for confident tokens
        if cap is not None:
            values.mul_(1 - (piece.float() / cap).square_())
        piece.copy_(values)
    return torch.cat(found)[:, 0], logits

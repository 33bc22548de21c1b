"""How far a student's distribution over the vocabulary is from its teacher's, without ever holding more logits than a bound.

As in log_probs.py: the logits of both are made in blocks of rows, turned at once into the gradient by the student's, and kept only if all
of them fit the bound; else they are made again in the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.objectives import log_probs
from tfkit.objectives.log_probs import Head, make_logits, piece_rows

_PIECE = 2**19  # logits of each in one softmax on a CPU: 2 MiB in float32


def token_divergences(head: Head, hidden: Tensor, teacher: Head, teacher_hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) at each row, both softened by the temperature: hidden (N, D) and (N, D') -> (N,), in nats.

    The sum over the vocabulary of p_t (log p_t - log p_s), where p = softmax(logits / temperature), in float32 (float64 of float64). The
    gradient goes to the student alone.
    """
    hidden = head.prepare(hidden)
    with torch.no_grad():
        teacher_hidden = teacher.prepare(teacher_hidden)
    if torch.is_grad_enabled():
        result: Tensor = _Divergences.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, head.softcap, teacher_hidden, teacher, temperature
        )
        return result
    blocks = _blocks(hidden, head.weight, teacher_hidden, teacher)
    return torch.cat([_compare(*both, head.weight, head.bias, head.softcap, teacher, temperature)[0] for both in blocks])


class _Divergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cap: float | None,
        teacher_hidden: Tensor,
        teacher: Head,
        temperature: float,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, teacher_hidden)
        ctx.cap, ctx.teacher, ctx.temperature = cap, teacher, temperature  # the teacher's matrix is there anyway
        blocks = _blocks(hidden, weight, teacher_hidden, teacher)
        if len(blocks) > 1:
            ctx.errors = None
            return torch.cat([_compare(*both, weight, bias, cap, teacher, temperature)[0] for both in blocks])
        found, ctx.errors = _compare(hidden, teacher_hidden, weight, bias, cap, teacher, temperature)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None, None, None]:
        hidden, weight, bias, teacher_hidden = ctx.saved_tensors
        scale = grad[:, None].to(hidden.dtype)
        wide = torch.promote_types(weight.dtype, torch.float32)  # bf16 sums over many blocks would lose what is small
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=wide)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        kept, ctx.errors = ctx.errors, None  # else they would be held until the whole backward pass is over
        done = 0
        for rows, teacher_rows in _blocks(hidden, weight, teacher_hidden, ctx.teacher):
            here = slice(done, done + len(rows))
            errors = kept
            if errors is None:
                errors = _compare(rows, teacher_rows, weight, bias, ctx.cap, ctx.teacher, ctx.temperature)[1]
            grad_hidden[here] = scale[here] * (errors @ weight)
            grad_weight += errors.t() @ (scale[here] * rows)
            if grad_bias is not None:
                grad_bias += (errors.t() @ scale[here])[:, 0]
            done += len(rows)
        return (
            *(grad_hidden, grad_weight.to(weight.dtype), None if grad_bias is None else grad_bias.to(weight.dtype)),
            *(None, None, None, None),
        )


def _blocks(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher: Head) -> list[tuple[Tensor, Tensor]]:
    """Rows of both in blocks whose logits together fit the bound."""
    row = len(weight) * hidden.element_size() + len(teacher.weight) * teacher_hidden.element_size()
    rows = max(1, log_probs.LOGITS_BYTES // row)
    return list(zip(hidden.split(rows), teacher_hidden.split(rows), strict=True))


@torch.no_grad()
def _compare(
    hidden: Tensor, teacher_hidden: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None, teacher: Head, temperature: float
) -> tuple[Tensor, Tensor]:
    """The divergences (n,), and their gradient by the student's uncapped logits (n, V), in the hidden states' type.

    That is (p_s - p_t) / temperature; under a cap times the slope of the cap, 1 - (logit / cap)^2.
    """
    logits = make_logits(hidden, weight, bias, cap)
    taught = make_logits(teacher_hidden, teacher.weight, teacher.bias, teacher.softcap)
    found = []
    rows = piece_rows(logits, _PIECE)
    for piece, wanted in zip(logits.split(rows), taught.split(rows), strict=True):
        student, target = _soften(piece, temperature), _soften(wanted, temperature)
        shares = target.exp()
        found.append((shares * (target - student)).sum(-1))
        errors = student.exp_().sub_(shares).div_(temperature)  # before rounding: small differences of likely tokens keep their digits
        if cap is not None:
            errors.mul_(1 - (piece.to(errors.dtype) / cap).square_())
        piece.copy_(errors)
    return torch.cat(found), logits


def _soften(logits: Tensor, temperature: float) -> Tensor:
    """The log-probabilities, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div(temperature).log_softmax(-1)

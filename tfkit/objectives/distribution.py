"""The distance of a student's distribution over the vocabulary from its teacher's: in row blocks, as vocabulary_loss.py says."""

from functools import partial

import torch
from torch import Tensor

from tfkit.objectives.vocabulary_loss import Head, make_logits, overwrite, pieces, vocabulary_loss

_PIECE = 2**19  # logits of each in one softmax on a CPU: 2 MiB in float32


def token_divergences(head: Head, hidden: Tensor, teacher: Head, teacher_hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) at each row, both softened by the temperature: hidden (N, D) and (N, D') -> (N,), in nats.

    The sum over the vocabulary of p_t (log p_t - log p_s), where p = softmax(logits / temperature), in float32 (float64 of float64). The
    gradient goes to the student alone. The bound holds for the logits of both together.
    """
    with torch.no_grad():
        teacher_hidden = teacher.prepare(teacher_hidden)
    row = len(teacher.weight) * teacher_hidden.element_size()
    loss = partial(_divergences, cap=head.softcap, teacher=teacher, temperature=temperature)  # the teacher's matrix is there anyway
    return vocabulary_loss(head, hidden, loss, teacher_hidden, target_bytes=row)


@torch.no_grad()
def _divergences(logits: Tensor, teacher_hidden: Tensor, *, gradient: bool, cap: float | None, teacher: Head, temperature: float) -> Tensor:
    """(n, V), (n, D') -> (n,). The gradient is (p_s - p_t) / temperature."""
    teacher_logits = make_logits(teacher_hidden, teacher.weight, teacher.bias, teacher.softcap)
    found = []
    for piece, wanted in pieces(logits, teacher_logits, most=_PIECE):
        student, target = _soften(piece, temperature), _soften(wanted, temperature)
        shares = target.exp()
        found.append((shares * (target - student)).sum(-1))
        if gradient:
            # The difference before rounding: small ones of likely tokens keep their digits.
            overwrite(piece, student.exp_().sub_(shares).div_(temperature), cap)
    return torch.cat(found)


def _soften(logits: Tensor, temperature: float) -> Tensor:
    """The log-probabilities, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div(temperature).log_softmax(-1)

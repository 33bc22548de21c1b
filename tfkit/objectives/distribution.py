"""The KL divergence of a student's distribution over the vocabulary from its teacher's, in blocks of rows as in vocabulary_loss.py."""

from functools import partial

import torch
from torch import Tensor

from tfkit.objectives.vocabulary_loss import Head, make_logits, overwrite, pieces, vocabulary_loss

_PIECE = 2**19  # logits of student and of teacher in one softmax on a CPU: 2 MiB each in float32


def token_divergences(head: Head, hidden: Tensor, teacher: Head, teacher_hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) at each row, both softened by the temperature: hidden (N, D) and (N, D') -> (N,), in nats.

    It is the sum over the vocabulary of p_t (log p_t - log p_s), where p = softmax(logits / temperature), in float32 (float64 for float64).
    Only the student gets a gradient. LOGITS_BYTES bounds the logits of both together.
    """
    with torch.no_grad():
        teacher_hidden = teacher.prepare(teacher_hidden)
    row_bytes = len(teacher.weight) * teacher_hidden.element_size()
    loss = partial(_divergences, cap=head.softcap, teacher=teacher, temperature=temperature)
    return vocabulary_loss(head, hidden, loss, teacher_hidden, target_bytes=row_bytes)


@torch.no_grad()
def _divergences(logits: Tensor, teacher_hidden: Tensor, *, gradient: bool, cap: float | None, teacher: Head, temperature: float) -> Tensor:
    """Compute the losses of a block: (n, V), (n, D') -> (n,). The gradient is (p_s - p_t) / temperature."""
    teacher_logits = make_logits(teacher_hidden, teacher.weight, teacher.bias, teacher.softcap)
    losses = []
    for piece, teacher_piece in pieces(logits, teacher_logits, most=_PIECE):
        student, target = _soften(piece, temperature), _soften(teacher_piece, temperature)
        probabilities = target.exp()
        losses.append((probabilities * (target - student)).sum(-1))
        if gradient:
            # Subtract before rounding to the dtype of the logits: small differences of likely tokens keep their digits.
            overwrite(piece, student.exp_().sub_(probabilities).div_(temperature), cap)
    return torch.cat(losses)


def _soften(logits: Tensor, temperature: float) -> Tensor:
    """Return the softened log-probabilities, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div(temperature).log_softmax(-1)

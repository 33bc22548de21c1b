"""Log-probabilities of tokens from hidden states, in float32, computed in blocks to limit the memory of the logits."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from tfkit.model.head import VocabularyHead, vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.vocabulary_loss import (
    block_cross_entropy,
    block_rows,
    make_logits,
    needs_blocks,
    overwrite,
    pieces,
    split_rows,
    vocabulary_loss,
)


def token_log_probs(head: VocabularyHead, hidden: Tensor, labels: Tensor, smoothing: float = 0.0, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each label: hidden (N, D), labels (N,) of ids -> (N,) in float32, in nats.

    `temperature` divides the logits, as in sampling. With `smoothing` e return 1 - e times that log-probability plus e times the mean of
    those of all V entries, as PyTorch's `label_smoothing`; tensor2tensor has 1 - e on the label, and e / (V - 1) on each other entry.
    """
    if torch.is_grad_enabled() and needs_blocks(head.weight, hidden):
        return -block_cross_entropy(head, head.prepare(hidden), labels, smoothing, temperature)
    loss = partial(_cross_entropy, cap=head.softcap, smoothing=smoothing, temperature=temperature)
    return -vocabulary_loss(head, hidden, loss, labels)


class TokenScores(NamedTuple):
    """The scores of N labels by a model's predictions, (N,) each, without gradients."""

    log_probs: Tensor  # the log-probability of the label
    mean_log_probs: Tensor  # the mean log-probability of all vocabulary entries, for label smoothing
    right: Tensor  # whether the label is the likeliest entry


@torch.no_grad()
def token_scores(head: VocabularyHead, hidden: Tensor, labels: Tensor) -> TokenScores:
    """Return the scores of each label in one pass over the logits: hidden (N, D), labels (N,); no gradient."""
    hidden, scores = head.prepare(hidden), []
    for rows, ids in split_rows(block_rows(head.weight, hidden), hidden, labels):
        for piece, label in pieces(make_logits(rows, head.weight, head.bias, head.softcap), ids[:, None]):
            values = piece.log_softmax(-1, dtype=torch.float32)
            scores.append((values.gather(1, label)[:, 0], values.mean(-1), piece.argmax(-1) == label[:, 0]))
    return TokenScores(*(torch.cat(part) for part in zip(*scores, strict=True)))


@torch.no_grad()
def token_entropies(head: VocabularyHead, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy of the next token's distribution at each hidden state: (N, D) -> (N,) in float32, in nats; no gradient."""
    hidden, entropies = head.prepare(hidden), []
    for (rows,) in split_rows(block_rows(head.weight, hidden), hidden):
        for (piece,) in pieces(make_logits(rows, head.weight, head.bias, head.softcap)):
            entropies.append(torch.special.entr((piece.float() / temperature).softmax(-1)).sum(-1))
    return torch.cat(entropies)


def _cross_entropy(logits: Tensor, labels: Tensor, *, gradient: bool, cap: float | None, smoothing: float, temperature: float) -> Tensor:
    """Compute the losses of a block: (n, V), (n,) -> (n,). With `gradient`, overwrite the logits by their gradient."""
    losses = []
    for piece, ids in pieces(logits, labels[:, None]):
        values = (piece if temperature == 1 else piece.float() / temperature).log_softmax(-1, dtype=torch.float32)
        log_probs = values.gather(1, ids)
        losses.append(-log_probs if not smoothing else -((1 - smoothing) * log_probs + smoothing * values.mean(-1, keepdim=True)))
        if gradient:
            values.exp_()
            if smoothing:
                values.sub_(smoothing / logits.shape[1])
            values.scatter_add_(1, ids, values.new_full(ids.shape, smoothing - 1.0))  # in float32, so that 1 - p is exact if p is near 1
            overwrite(piece, values if temperature == 1 else values.div_(temperature), cap)
    return torch.cat(losses)[:, 0]


def label_log_probs(model: Transformer, hidden: Tensor, labels: Tensor, smoothing: float = 0.0, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each label other than IGNORED: hidden (B, T, D), labels (B, T) -> (targets,), in nats."""
    hidden, labels = hidden.flatten(0, 1), labels.flatten()  # (B * T, D), (B * T,)
    targets = labels != IGNORED
    if not bool(targets.all()):
        hidden, labels = hidden[targets], labels[targets]
    return token_log_probs(vocabulary_head(model.head), hidden, labels, smoothing, temperature)


def response_log_probs(model: Transformer, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each label other than IGNORED, ordered by row and position: labels (B, T) -> (targets,), in nats.

    `temperature`, at which the responses were sampled, divides the logits.
    """
    return label_log_probs(model, model(**batch.inputs()).hidden, batch.labels, temperature=temperature)


def sequence_sums(values: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over the labelled tokens of each sequence: values (targets,), labels (B, T) -> (B,)."""
    rows = (labels != IGNORED).nonzero()[:, 0]  # (targets,)
    return torch.zeros(len(labels), dtype=values.dtype, device=values.device).index_add(0, rows, values)

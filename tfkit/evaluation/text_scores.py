"""Scores of a language model on texts: loss, perplexity and bits per byte; each text is scored separately.

A text is cut into pieces of at most `piece_length` ids that overlap by one id, so that every id but the text's first is a target once:

    ids      0 1 2 3 4 5 6 7 8        piece length 4
    pieces   0 1 2 3
                   3 4 5 6
                         6 7 8
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tfkit.data.store.token_stream import TokenStream, check_ids
from tfkit.errors import DataError, ModelError, Stopped
from tfkit.evaluation.row_scores import TokenBudget
from tfkit.generation.inference import inference
from tfkit.model.head import vocabulary_head
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer
from tfkit.objectives.log_probs import token_log_probs
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.objective import perplexity
from tfkit.parallel.rank_map import UNWATCHED, BatchWork

BATCH_TOKENS = 16_384  # maximum number of ids in a forward pass of several pieces. Larger batches take more memory and are no faster


@dataclass(frozen=True)
class TextScore:
    """The scores of several texts: each array has one entry per text, in the order of the texts in their streams."""

    losses: Numbers  # float64, nats: the sum over a text's targets
    targets: Numbers  # int64: the number of a text's targets
    bytes: Numbers  # int64: the number of UTF-8 bytes that a text's targets cover

    def __add__(self, other: "TextScore") -> "TextScore":
        """Return the scores of the texts of `self`, followed by those of `other`."""
        return TextScore(
            np.concatenate((self.losses, other.losses)),
            np.concatenate((self.targets, other.targets)),
            np.concatenate((self.bytes, other.bytes)),
        )

    @property
    def target_tokens(self) -> int:
        """The number of targets of all texts."""
        return int(self.targets.sum())

    def metrics(self) -> dict[str, float]:
        """Return `loss` (nats per target), `perplexity`, `bits_per_byte` (NaN without bytes) and `target_tokens`."""
        loss_sum = math.fsum(self.losses)  # correctly rounded, and so independent of the order of the texts
        return text_metrics(loss_sum, self.target_tokens, int(self.bytes.sum())) | {"target_tokens": self.target_tokens}


def text_metrics(loss_sum: float, target_tokens: float, text_bytes: float) -> dict[str, float]:
    """Return `loss`, `perplexity` and `bits_per_byte` from sums over texts; a metric is NaN if its divisor (targets or bytes) is 0."""
    loss = loss_sum / target_tokens if target_tokens else math.nan
    bits_per_byte = loss_sum / math.log(2) / text_bytes if text_bytes else math.nan
    return {"loss": loss, "perplexity": perplexity(loss), "bits_per_byte": bits_per_byte}


@dataclass(frozen=True)
class _Pieces:
    """The positions of pieces: piece i consists of the ids [starts[i] : starts[i] + lengths[i]] of the text with the index texts[i]."""

    texts: Numbers
    starts: Numbers
    lengths: Numbers


def count_targets(stream: TokenStream, max_tokens: int | None = None) -> Numbers:
    """Return the number of targets of each text that is scored, int64. With `max_tokens`, only as many of the first
    texts are scored as together have at most `max_tokens` targets, but at least all up to the first one that has a target.
    """
    targets = np.maximum(np.diff(np.asarray(stream.starts)) - stream.separator - 1, 0)
    if max_tokens is not None and len(targets):
        fitting = int(np.searchsorted(targets.cumsum(), max_tokens, side="right"))
        targets = targets[: max(fitting, int((targets > 0).argmax()) + 1)]
    return targets


def score_texts(
    model: Transformer,
    stream: TokenStream,
    piece_length: int,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> TextScore:
    """Score each text of the stream separately, in pieces of at most `piece_length` ids, at most `batch_size` pieces per forward pass.

    The batch size changes the result only by rounding. `work.progress` counts scored targets. Raises Stopped if `work` is stopped,
    DataError if none of the scored texts has a target, ModelError if an id is outside the model's vocabulary.
    """
    check_ids(stream.name, stream.max_id, model.config.vocab_size)
    targets = count_targets(stream, max_tokens)
    if not targets.any():
        raise DataError(
            f"{stream.name}: there is nothing to score: no text has a token that follows another; give texts that are not empty"
        )
    losses = np.zeros(len(targets))

    def score(pieces: _Pieces) -> list[float]:
        if work.is_stopped():
            raise Stopped("stopped during the evaluation")
        positions = zip(pieces.texts, pieces.starts, pieces.lengths, strict=True)
        return _score(model, [stream.document(int(text))[start : start + length] for text, start, length in positions])

    batches = _batches(_cut(targets, piece_length), batch_size)
    with inference(model):
        for pieces, sums in zip(batches, work.deal(score, batches), strict=True):
            np.add.at(losses, pieces.texts, np.array(sums))
            work.progress(int(pieces.lengths.sum()) - len(sums))  # a piece's first id is no target
    return TextScore(losses, targets, np.asarray(stream.text_bytes[: len(targets)], dtype=np.int64))


def score_streams(
    model: Transformer,
    streams: Sequence[TokenStream],
    piece_length: int,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> list[TextScore]:
    """Return the result of `score_texts` for each stream. `max_tokens` limits the targets of all streams together, so the last streams
    may have no result. Raises the errors of `score_texts`.
    """
    scores: list[TextScore] = []
    budget = TokenBudget(max_tokens)
    for stream in budget.until_spent(streams):
        scores.append(score_texts(model, stream, piece_length, batch_size, max_tokens=budget.left, work=work))
        budget.spend(scores[-1].target_tokens)
    return scores


def _cut(targets: Numbers, piece_length: int) -> _Pieces:
    """Cut texts with these numbers of targets into pieces, longest first, so that a lack of memory shows at once and little is padded."""
    if piece_length < 2:
        raise ModelError(f"a piece of {piece_length} token has no room for a token and its target, so texts cannot be scored")
    stride = piece_length - 1
    pieces = -(-targets // stride)  # the number of pieces of each text; 0 for a text without targets
    texts = np.repeat(np.arange(len(targets)), pieces)
    starts = (np.arange(len(texts)) - np.repeat(pieces.cumsum() - pieces, pieces)) * stride
    lengths = np.minimum(stride, targets[texts] - starts) + 1
    order = np.argsort(-lengths, kind="stable")
    return _Pieces(texts[order], starts[order], lengths[order])


def _batches(pieces: _Pieces, batch_size: int) -> list[_Pieces]:
    """Return batches of at most `batch_size` pieces and, unless a batch has a single piece, at most BATCH_TOKENS ids, padding included."""
    batches: list[_Pieces] = []
    begin = 0
    while begin < len(pieces.texts):
        batch = slice(begin, begin + min(batch_size, max(1, BATCH_TOKENS // int(pieces.lengths[begin]))))
        batches.append(_Pieces(pieces.texts[batch], pieces.starts[batch], pieces.lengths[batch]))
        begin = batch.stop
    return batches


def _score(model: Transformer, pieces: list[Numbers]) -> list[float]:
    """Return the loss of each piece in nats, summed in float64."""
    head = vocabulary_head(model.head)
    device = head.weight.device
    ids, real = pad(pieces, 0).to(device), real_tokens(pieces).to(device)  # padded on the right, so that causal attention ignores padding
    inputs, labels, scored = ids[:, :-1], ids[:, 1:], real[:, 1:]  # (B, T) each; the last real id of a piece is only a label
    hidden = model(inputs, padding_mask=None if bool(scored.all()) else scored).hidden  # (B, T, D)
    log_probs = token_log_probs(head, hidden[scored], labels[scored]).cpu().double()  # (N,); an Apple GPU has no float64
    rows = scored.nonzero()[:, 0].cpu()  # (N,)
    return torch.zeros(len(pieces), dtype=torch.float64).index_add_(0, rows, -log_probs).tolist()


def text_score_metrics(score: TextScore) -> Scores:
    """Return a function that maps a weight per text to the loss, perplexity and bits per byte of the weighted texts."""
    return lambda weights: text_metrics(*(float(weights @ part) for part in (score.losses, score.targets, score.bytes)))

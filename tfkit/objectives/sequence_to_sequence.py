"""The decoder's input of an encoder-decoder, and the metrics of texts that are to be written, each token with all before it given."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import RowResult, sums_by_row
from tfkit.objectives.log_probs import token_scores
from tfkit.objectives.objective import IGNORED, Batch, Sum, perplexity


def shifted_right(labels: Tensor, start_id: int) -> Tensor:
    """Return what the decoder reads to write the labels (B, T'): what it begins with, then all but the last."""
    return torch.cat([torch.full((len(labels), 1), start_id), labels[:, :-1]], dim=1)


def measured(model: Transformer, batch: Batch, smoothing: float = 0.0) -> dict[str, Sum]:
    """The sums over all targets of the loss, of -log p without smoothing, and of those that are the likeliest token."""
    hidden, labels = model(**batch.inputs()).hidden.flatten(0, 1), batch.labels.flatten()  # (B * T', D), (B * T',)
    targets = labels != IGNORED
    scores = token_scores(vocabulary_head(model.head), hidden[targets], labels[targets])
    likely, of_all = (float(one.cpu().double().sum()) for one in (scores.log_probs, scores.mean_log_probs))
    count = int(targets.sum())
    return {
        "lm": Sum(-((1 - smoothing) * likely + smoothing * of_all), count),
        "nll": Sum(-likely, count),
        "right": Sum(float(scores.right.sum()), count),
    }


def predict_words(model: Transformer, batch: Batch, smoothing: float = 0.0) -> Iterator[RowResult]:
    """The same sums of each row; the texts that a model writes are no part of this forward."""
    hidden, targets = model(**batch.inputs()).hidden, batch.labels != IGNORED  # (B, T', D), (B, T')
    scores = token_scores(vocabulary_head(model.head), hidden[targets], batch.labels[targets])
    rows = targets.nonzero()[:, 0]  # (N,)
    losses = -((1 - smoothing) * scores.log_probs.cpu().double() + smoothing * scores.mean_log_probs.cpu().double())
    parts = {"lm": losses, "nll": -scores.log_probs, "right": scores.right}
    sums = {name: sums_by_row(values, rows, len(targets)) for name, values in parts.items()}
    for number in range(len(targets)):
        yield RowResult({name: found[number] for name, found in sums.items()}, {})


def word_metrics(loss: float, sums: Mapping[str, Sum]) -> dict[str, float]:
    """`loss`; `perplexity`, always of the loss without smoothing; `token_accuracy`, where all tokens before one are given."""
    return {"loss": loss, "perplexity": perplexity(sums["nll"].mean), "token_accuracy": sums["right"].mean}

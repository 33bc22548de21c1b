"""The decoder's input of an encoder-decoder, and the metrics of texts that are to be written, each token with all before it given."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import label_log_probs
from tfkit.objectives.labelled import RowResult, sums_by_row
from tfkit.objectives.log_probs import token_scores
from tfkit.objectives.objective import IGNORED, Batch, Sum, perplexity, weighted_loss


def shifted_right(labels: Tensor, start_id: int) -> Tensor:
    """Return what the decoder reads to write the labels (B, T'): what it begins with, then all but the last."""
    return torch.cat([torch.full((len(labels), 1), start_id), labels[:, :-1]], dim=1)


class TokenTargets:
    """The part that objectives of written texts share: cross-entropy over the labels (B, T'), which may be smoothed."""

    terms: Mapping[str, float] = MappingProxyType({"lm": 1.0})
    smoothing = 0.0

    def counts(self, batch: Batch) -> dict[str, int]:
        """The positions that have a target."""
        return {"lm": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sum over all targets of -log p, in nats, of smoothed labels where they are."""
        return {"lm": -label_log_probs(model, model(**batch.inputs()).hidden, batch.labels, self.smoothing).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """The loss, the same without smoothing, and how many targets are the likeliest token when all before them are given."""
        hidden, labels = model(**batch.inputs()).hidden.flatten(0, 1), batch.labels.flatten()  # (B * T', D), (B * T',)
        targets = labels != IGNORED
        scores = token_scores(vocabulary_head(model.head), hidden[targets], labels[targets])
        likely, of_all = (float(one.cpu().double().sum()) for one in (scores.log_probs, scores.mean_log_probs))
        count = int(targets.sum())
        return {
            "lm": Sum(-((1 - self.smoothing) * likely + self.smoothing * of_all), count),
            "nll": Sum(-likely, count),
            "right": Sum(float(scores.right.sum()), count),
        }

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """`loss` (nats a target) as it is trained, `perplexity` and, where labels are smoothed, `nll` without; `token_accuracy`."""
        loss, nll = weighted_loss(self.terms, sums), sums["nll"].mean
        found = {"loss": loss, "perplexity": perplexity(nll), "token_accuracy": sums["right"].mean}
        return found if not self.smoothing else {**found, "nll": nll}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """As `measure`, of each row; the texts that a model writes are no part of this forward."""
        hidden, targets = model(**batch.inputs()).hidden, batch.labels != IGNORED  # (B, T', D), (B, T')
        scores = token_scores(vocabulary_head(model.head), hidden[targets], batch.labels[targets])
        rows = targets.nonzero()[:, 0]  # (N,)
        losses = -((1 - self.smoothing) * scores.log_probs.cpu().double() + self.smoothing * scores.mean_log_probs.cpu().double())
        parts = {"lm": losses, "nll": -scores.log_probs, "right": scores.right}
        sums = {name: sums_by_row(values, rows, len(targets)) for name, values in parts.items()}
        for number in range(len(targets)):
            yield RowResult({name: found[number] for name, found in sums.items()}, {})

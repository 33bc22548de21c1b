"""The loss and the teacher-forced metrics of target texts, and the input of an encoder-decoder's decoder."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import RowResult, sums_by_row
from tfkit.objectives.log_probs import label_log_probs, token_scores
from tfkit.objectives.objective import IGNORED, Batch, Sum, perplexity, weighted_loss


def shifted_right(labels: Tensor, start_id: int) -> Tensor:
    """Return the decoder's input for labels (B, T'): the start id, then all labels but the last."""
    return torch.cat([torch.full((len(labels), 1), start_id), labels[:, :-1]], dim=1)


class TokenTargets:
    """The common part of objectives with target texts: cross-entropy over labels (B, T'), with optional label smoothing."""

    terms: Mapping[str, float] = {"lm": 1.0}
    smoothing = 0.0

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of positions with a target."""
        return {"lm": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over all targets of -log p in nats, with label smoothing."""
        return {"lm": -label_log_probs(model, model(**batch.inputs()).hidden, batch.labels, self.smoothing).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the loss, the loss without smoothing, and the number of targets that are the model's likeliest token."""
        hidden, labels = model(**batch.inputs()).hidden.flatten(0, 1), batch.labels.flatten()  # (B * T', D), (B * T',)
        targets = labels != IGNORED
        scores = token_scores(vocabulary_head(model.head), hidden[targets], labels[targets])
        log_prob, mean_log_prob = (float(values.cpu().double().sum()) for values in (scores.log_probs, scores.mean_log_probs))
        count = int(targets.sum())
        return {
            "lm": Sum(-((1 - self.smoothing) * log_prob + self.smoothing * mean_log_prob), count),
            "nll": Sum(-log_prob, count),
            "right": Sum(float(scores.right.sum()), count),
        }

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return the training `loss` (nats per target), `perplexity`, `token_accuracy` and, with label smoothing, the unsmoothed `nll`."""
        loss, nll = weighted_loss(self.terms, sums), sums["nll"].mean
        metrics = {"loss": loss, "perplexity": perplexity(nll), "token_accuracy": sums["right"].mean}
        return metrics if not self.smoothing else {**metrics, "nll": nll}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the sums of `measure` for each row; no text is generated."""
        hidden, targets = model(**batch.inputs()).hidden, batch.labels != IGNORED  # (B, T', D), (B, T')
        scores = token_scores(vocabulary_head(model.head), hidden[targets], batch.labels[targets])
        rows = targets.nonzero()[:, 0]  # (N,)
        losses = -((1 - self.smoothing) * scores.log_probs.cpu().double() + self.smoothing * scores.mean_log_probs.cpu().double())
        parts = {"lm": losses, "nll": -scores.log_probs, "right": scores.right}
        sums = {name: sums_by_row(values, rows, len(targets)) for name, values in parts.items()}
        for number in range(len(targets)):
            yield RowResult({name: by_row[number] for name, by_row in sums.items()}, {})

"""Multi-label classification: any number of labels for a text or a pair of texts, each with its own probability.

As in transformers' `problem_type: multi_label_classification`, the sigmoid of a logit is the probability of its label, the loss is binary
cross-entropy, and labels with a probability above 0.5 are predicted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.model.transformer import Transformer
from tfkit.objectives.classification import unknown_label
from tfkit.objectives.labelled import NO_LABEL, Answer, LabelProbabilities, RowResult, label_columns, short
from tfkit.objectives.metrics import Scores
from tfkit.objectives.metrics.classes import label_set_figures, label_set_metrics
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.text_pairs import TextLabelling
from tfkit.recipe.schema.label_sections import MultiLabelSection
from tfkit.tokenizer import Tokenizer


class MultiLabel(TextLabelling):
    """Binary cross-entropy, summed over texts and labels."""

    terms: Mapping[str, float] = {"labels": 1.0}
    means = ("exact_match",)  # the fraction of texts whose predicted labels are exactly the right ones

    def __init__(self, section: MultiLabelSection, tokenizer: Tokenizer, labels: Sequence[str], row_length: int, start_id: int | None):
        """`labels`: in the order of the logits. `start_id`: the first id of an encoder-decoder's decoder; None for other models."""
        self.section, self.tokenizer, self.labels = section, tokenizer, tuple(labels)
        self.row_length, self.start_id, self.placeholder = row_length, start_id, np.zeros(len(labels), np.bool_)
        self._numbers = {label: number for number, label in enumerate(labels)}

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        about = ("multi_label", self.section.delimiter, self.labels, self.tokenizer.fingerprint(), self.row_length)
        return digest(*map(repr, about))

    def target(self, row: Row) -> NDArray[np.bool_] | BadRow:
        """Return whether each label applies to a row, or the error for an unknown label."""
        labels = self.section.labels_in(row.values["labels"])
        if (unknown := next((label for label in labels if label not in self._numbers), None)) is not None:
            return unknown_label(row.place, unknown, self.labels)
        target = self.placeholder.copy()
        target[[self._numbers[label] for label, applies in labels.items() if applies]] = True
        return target

    def stacked(self, labels: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return 0.0 or 1.0 for each label, (B, labels)."""
        return labels.astype(np.float32)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of pairs of a text and a label."""
        return {"labels": batch.labels.numel()}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the binary cross-entropies over texts and labels."""
        return {"labels": _losses(model(**batch.inputs()).logits, batch.labels).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the loss, and the number of texts whose predicted labels are exactly the right ones."""
        logits = model(**batch.inputs()).logits
        exact = ((logits > 0) == batch.labels.bool()).all(1)
        return {
            "labels": Sum(float(_losses(logits, batch.labels).sum()), batch.labels.numel()),
            "exact_match": Sum(float(exact.sum()), len(exact)),
        }

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each text: its loss, its right and its predicted labels, and the probabilities of all labels."""
        logits = model(**batch.inputs()).logits.float()  # (B, labels)
        sums = _losses(logits, batch.labels).cpu().double().sum(1).tolist()
        columns = (sums, (logits > 0).tolist(), batch.labels.bool().tolist(), logits.sigmoid().cpu().numpy())
        for loss, applies, is_right, probabilities in zip(*columns, strict=True):
            right, predicted = self._names(is_right), self._names(applies)
            answer = {"labels": right, "predicted": predicted, "probabilities": LabelProbabilities(self.labels, probabilities)}
            yield RowResult({"labels": Sum(loss, len(self.labels)), "exact_match": Sum(float(right == predicted), 1)}, answer)

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield, for each row, the labels with a probability above 0.5 and their probabilities; `all_labels`: also those of all labels."""
        logits = model(**batch.inputs()).logits.float()
        for applies, values in zip((logits > 0).tolist(), logits.sigmoid().tolist(), strict=True):
            probabilities = {label: short(value) for label, value in zip(self.labels, values, strict=True)}
            names = self._names(applies)
            yield Answer(names, [probabilities[label] for label in names], probabilities if all_labels else None)

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return a list with one function, which computes the metrics of sets of labels, given a weight for each row."""
        right, predicted, all_labels = self._sets(predictions)
        return [label_set_metrics(right, predicted, len(all_labels))]

    def label_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the metrics of each label."""
        return label_set_figures(*self._sets(predictions))

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: NO_LABEL, which counts as a wrong prediction."""
        labels = [label for label, applies in self.section.labels_in(row.values["labels"]).items() if applies]
        return RowResult({"exact_match": Sum(0.0, 1)}, {"labels": labels, "predicted": [NO_LABEL]})

    def _sets(self, predictions: Sequence[Mapping[str, Any]]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Return the indices of each row's right and predicted labels, and all labels, also the unknown ones of rows not encoded."""
        labels, answers, numbers = label_columns(predictions, "labels", self.labels)
        right, predicted = ([[numbers[label] for label in row] for row in rows] for rows in (labels, answers))
        return right, predicted, list(numbers)

    def _names(self, applies: Sequence[bool]) -> list[str]:
        return [label for label, is_set in zip(self.labels, applies, strict=True) if is_set]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropies: (B, labels), (B, labels) -> (B, labels)."""
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")

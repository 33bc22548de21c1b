"""Multi-label classification: any number of labels for a text or a pair of texts, each with a probability of its own.

As transformers' `problem_type: multi_label_classification`: the sigmoid of each logit, binary cross-entropy, and labels that apply from
a probability of one half on.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row
from tfkit.data.columns.rows import BadRow
from tfkit.model.transformer import Transformer
from tfkit.objectives.classification import unknown_label
from tfkit.objectives.labelled import NO_LABEL, Answer, LabelledObjective, LabelProbabilities, RowResult, short
from tfkit.objectives.metrics import Scores
from tfkit.objectives.metrics.label_sets import label_set_figures, label_set_metrics
from tfkit.objectives.objective import Batch, Sum, weighted_loss
from tfkit.objectives.whole_texts import WholeTexts, labels_of
from tfkit.recipe.schema.multi_label_section import MultiLabelSection
from tfkit.tokenizer import Tokenizer


class MultiLabel(LabelledObjective):
    """Binary cross-entropy, summed over texts and labels."""

    terms: Mapping[str, float] = MappingProxyType({"labels": 1.0})
    ids = ("input_ids",)

    def __init__(self, section: MultiLabelSection, tokenizer: Tokenizer, labels: Sequence[str], row_length: int, start_id: int | None):
        """`labels` are in the order of their numbers; `start_id` is given for an encoder-decoder: what its decoder begins with."""
        self.section, self.labels, self._texts = section, tuple(labels), WholeTexts(tokenizer, row_length, start_id)
        self._numbers = {label: number for number, label in enumerate(labels)}

    def fingerprint(self) -> str:
        """Of what `encode` depends on."""
        texts = self._texts
        about = ("multi_label", self.section.delimiter, self.labels, texts.tokenizer.fingerprint(), texts.row_length)
        return hashlib.blake2b("\0".join(map(repr, about)).encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """input_ids, segment_ids (of pairs), and for each label whether it applies."""
        return self._texts.encode(rows, [self._target(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """The same without any label."""
        return self._texts.encode(rows, [np.zeros(len(self.labels), np.bool_)] * len(rows))

    def collate(self, rows: ExampleBatch) -> Batch:
        """Texts padded on the right; labels (B, labels), 0.0 or 1.0."""
        examples = rows.single()
        return self._texts.collate(examples, torch.from_numpy(labels_of(examples).astype(np.float32).reshape(len(examples), -1)))

    def counts(self, batch: Batch) -> dict[str, int]:
        """The pairs of a text and a label."""
        return {"labels": batch.labels.numel()}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sum over texts and labels."""
        return {"labels": _losses(model(**batch.inputs()).logits, batch.labels).sum()}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """The loss, and how many texts have all their labels right, and no other."""
        logits = model(**batch.inputs()).logits
        exact = ((logits > 0) == batch.labels.bool()).all(1)
        return {
            "labels": Sum(float(_losses(logits, batch.labels).sum()), batch.labels.numel()),
            "exact_match": Sum(float(exact.sum()), len(exact)),
        }

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """`loss`, and `exact_match`: the share of texts whose labels are all right."""
        return {"loss": weighted_loss(self.terms, sums), "exact_match": sums["exact_match"].mean}

    @property
    def evaluates_answers(self) -> bool:
        """F1 is of all labels together."""
        return True

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """The labels of a text that are more likely than not, and the probability of each."""
        logits = model(**batch.inputs()).logits.float()  # (B, labels)
        sums = _losses(logits, batch.labels).cpu().double().sum(1).tolist()
        parts = (sums, (logits > 0).tolist(), batch.labels.bool().tolist(), logits.sigmoid().cpu().numpy())
        for loss, applies, is_right, of_row in zip(*parts, strict=True):
            right, predicted = self._named(is_right), self._named(applies)
            answer = {"labels": right, "predicted": predicted, "probabilities": LabelProbabilities(self.labels, of_row)}
            yield RowResult({"labels": Sum(loss, len(self.labels)), "exact_match": Sum(float(right == predicted), 1)}, answer)

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """The labels that are more likely than not, with their probabilities."""
        logits = model(**batch.inputs()).logits.float()
        for applies, found in zip((logits > 0).tolist(), logits.sigmoid().tolist(), strict=True):
            every = {label: short(value) for label, value in zip(self.labels, found, strict=True)}
            named = self._named(applies)
            yield Answer(named, [every[label] for label in named], every if all_labels else None)

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Those of sets of labels."""
        right, predicted, every = self._sets(predictions)
        return [label_set_metrics(right, predicted, len(every))]

    def answer_figures(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Those of each label."""
        return label_set_figures(*self._sets(predictions))

    def wrong(self, row: Row) -> RowResult:
        """No label that there is."""
        found = [label for label, applies in self.section.labels_in(row.values["labels"]).items() if applies]
        return RowResult({"exact_match": Sum(0.0, 1)}, {"labels": found, "predicted": [NO_LABEL]})

    def _sets(self, predictions: Sequence[Mapping[str, Any]]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """The numbers of the right and of the predicted labels of each row, and all labels; lost rows may have further ones."""
        columns = [[one[name] for one in predictions] for name in ("labels", "predicted")]
        every = list(dict.fromkeys([*self.labels, *(label for rows in columns for row in rows for label in row)]))
        numbers = {label: number for number, label in enumerate(every)}
        right, predicted = ([[numbers[label] for label in row] for row in rows] for rows in columns)
        return right, predicted, every

    def _named(self, applies: Sequence[bool]) -> list[str]:
        return [label for label, one in zip(self.labels, applies, strict=True) if one]

    def _target(self, row: Row) -> NDArray[Any] | BadRow:
        found = self.section.labels_in(row.values["labels"])
        if unknown := next((label for label in found if label not in self._numbers), None):
            return unknown_label(row.place, unknown, self.labels)
        target = np.zeros(len(self.labels), np.bool_)
        target[[self._numbers[label] for label, applies in found.items() if applies]] = True
        return target


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, labels), (B, labels) -> (B, labels)."""
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")

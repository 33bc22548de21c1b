"""Sequence classification: the class of a text or of a pair of texts."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, ExampleSet, Row
from tfkit.data.columns.rows import BadRow
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import Stored
from tfkit.objectives.labelled import NO_LABEL, Answer, LabelledObjective, LabelProbabilities, RowResult, class_answer
from tfkit.objectives.metrics import Scores
from tfkit.objectives.metrics.classes import class_figures, classification_metrics
from tfkit.objectives.objective import Batch, Sum, weighted_loss
from tfkit.objectives.whole_texts import WholeTexts, labels_of
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.tokenizer import Tokenizer

_UNEQUAL = 3  # times the rows of the smallest class: then they are reported


class Classification(LabelledObjective):
    """Cross-entropy over classes, summed over texts."""

    terms: Mapping[str, float] = MappingProxyType({"classes": 1.0})
    ids = ("input_ids",)

    def __init__(self, section: ClassificationSection, tokenizer: Tokenizer, labels: Sequence[str], row_length: int, start_id: int | None):
        """`labels` are the classes; `start_id` is given for an encoder-decoder: what its decoder begins with."""
        self.section, self.tokenizer, self.labels = section, tokenizer, tuple(labels)
        self.row_length, self._texts = row_length, WholeTexts(tokenizer, row_length, start_id)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._weights: Tensor | None = None  # (classes,) of the loss in training; None: all alike

    def fingerprint(self) -> str:
        """Of what `encode` depends on."""
        section = self.section.model_dump_json(exclude={"class_weights"})
        about = f"classification\0{section}\0{self.labels}\0{self.tokenizer.fingerprint()}\0{self.row_length}"
        return hashlib.blake2b(about.encode(), digest_size=16).hexdigest()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """input_ids, segment_ids (of pairs), and the number of the class."""
        return self._texts.encode(rows, [self._label(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """The same with a label of no meaning."""
        return self._texts.encode(rows, [np.zeros(1, np.int32)] * len(rows))

    def collate(self, rows: ExampleBatch) -> Batch:
        """Texts padded on the right; labels (B,)."""
        examples = rows.single()
        return self._texts.collate(examples, torch.from_numpy(labels_of(examples).astype(np.int64)))

    def counts(self, batch: Batch) -> dict[str, int]:
        """The texts."""
        return {"classes": len(batch.labels)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sum over texts, each with its class's weight."""
        logits = model(**batch.inputs()).logits
        weights = None if self._weights is None else self._weights.to(logits.device)
        return {"classes": F.cross_entropy(logits.float(), batch.labels, weights, reduction="sum")}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """The loss, and how many classes are right."""
        logits = model(**batch.inputs()).logits
        loss, right = F.cross_entropy(logits.float(), batch.labels, reduction="sum"), (logits.argmax(-1) == batch.labels).sum()
        return {"classes": Sum(float(loss), len(batch.labels)), "accuracy": Sum(float(right), len(batch.labels))}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """`loss`, and `accuracy`."""
        return {"loss": weighted_loss(self.terms, sums), "accuracy": sums["accuracy"].mean}

    def prepare(self, stored: Sequence[Stored]) -> None:
        """Weight each class by N / (classes * its rows), as scikit-learn's `balanced`: the weights of all rows have a mean of 1."""
        if self.section.class_weights is not None:
            counts = self._class_counts(stored)
            self._weights = torch.from_numpy(counts.sum() / ((counts > 0).sum() * counts.clip(min=1))).float()

    def notes(self, stored: Sequence[Stored]) -> list[str]:
        """Unequal classes: one that has more than three times the rows of another."""
        counts = self._class_counts(stored)
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] <= _UNEQUAL * counts[least]:
            return []
        sizes = f"{self.labels[most]!r} has {counts[most]:,} rows, {self.labels[least]!r} {counts[least]:,}"
        weighted = "each counts in inverse proportion" if self._weights is not None else "objective.class_weights=balanced weights them"
        return [f"the classes are unequal: {sizes}; {weighted}"]

    def _class_counts(self, stored: Sequence[Stored]) -> NDArray[np.int64]:
        """Count the rows of each class, (classes,)."""
        numbers = [np.asarray(one.arrays["label"][0]) for one in stored if isinstance(one, ExampleSet)]
        return np.bincount(np.concatenate(numbers), minlength=len(self.labels))

    @property
    def evaluates_answers(self) -> bool:
        """F1 is of all answers together."""
        return True

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """The likeliest class with its probability."""
        logits = model(**batch.inputs()).logits.float()  # (B, classes)
        log_probs = logits.log_softmax(-1)
        best, losses = log_probs.max(-1), -log_probs.gather(1, batch.labels[:, None])[:, 0]
        parts = (part.tolist() for part in (batch.labels, best.indices, best.values, losses))
        for right, predicted, log_prob, loss, of_row in zip(*parts, log_probs.exp().cpu().numpy(), strict=True):
            answer = {"label": self.labels[right], "predicted": self.labels[predicted], "probability": float(np.exp(log_prob))}
            answer["probabilities"] = LabelProbabilities(self.labels, of_row)
            yield RowResult({"classes": Sum(loss, 1), "accuracy": Sum(float(predicted == right), 1)}, answer)

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """The likeliest class."""
        logits = model(**batch.inputs()).logits.float()  # (B, classes)
        yield from (class_answer(row, self.labels, all_labels=all_labels) for row in logits.softmax(-1).tolist())

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Those of classes."""
        return [classification_metrics(*self._class_numbers(predictions))]

    def answer_figures(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Those of each class."""
        return class_figures(*self._class_numbers(predictions), self._all_labels(predictions))

    def wrong(self, row: Row) -> RowResult:
        """No class, which is none of the labels."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {"label": str(row.values["label"]), "predicted": NO_LABEL})

    def _all_labels(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """The classes, and those that lost rows have beside them."""
        return list(dict.fromkeys([*self.labels, *(one[name] for one in predictions for name in ("label", "predicted"))]))

    def _class_numbers(self, predictions: Sequence[Mapping[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The right and the predicted classes: (N,) each."""
        numbers = {label: number for number, label in enumerate(self._all_labels(predictions))}
        right, predicted = (np.array([numbers[one[name]] for one in predictions], np.int64) for name in ("label", "predicted"))
        return right, predicted

    def _label(self, row: Row) -> NDArray[np.int32] | BadRow:
        written = row.values["label"]
        if written not in self._numbers:
            return unknown_label(row.place, written, self.labels)
        return np.array([self._numbers[written]], np.int32)


def unknown_label(place: str, written: str, labels: Sequence[str]) -> BadRow:
    """Error for a label that the training rows, or the recipe, do not have."""
    known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
    return BadRow(
        f"label {written!r}",
        f"{place}: the label {written!r} is none of {known}; correct the row, or name all in objective.labels",
        lost=True,
    )

"""Sequence classification: the class of a text or of a pair of texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import ExampleSet, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.data.order.draws import count_repeats
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import Stored
from tfkit.objectives.labelled import NO_LABEL, Answer, LabelProbabilities, RowResult, class_answer
from tfkit.objectives.metrics import Scores
from tfkit.objectives.metrics.classes import class_metrics, classification_metrics
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.text_pairs import TextLabelling
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.tokenizer import Tokenizer

_IMBALANCE = 3  # a remark reports the sizes of the largest and the smallest class if their ratio is above this number


class Classification(TextLabelling):
    """Cross-entropy over classes, summed over texts."""

    terms: Mapping[str, float] = {"classes": 1.0}
    means = ("accuracy",)
    placeholder = np.zeros(1, np.int32)

    def __init__(self, section: ClassificationSection, tokenizer: Tokenizer, labels: Sequence[str], row_length: int, start_id: int | None):
        """`labels`: the classes, in the order of the logits. `start_id`: the first id of an encoder-decoder's decoder; otherwise None."""
        self.section, self.tokenizer, self.labels = section, tokenizer, tuple(labels)
        self.row_length, self.start_id = row_length, start_id
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._weights: Tensor | None = None  # (classes,): the weights of the classes in the training loss; None: equal weights

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        section = self.section.model_dump_json(exclude={"class_weights"})
        return digest("classification", section, self.labels, self.tokenizer.fingerprint(), self.row_length)

    def target(self, row: Row) -> NDArray[np.int32] | BadRow:
        """Return the index of a row's class, or the error for an unknown class."""
        written = row.values["label"]
        if written not in self._numbers:
            return unknown_label(row.place, written, self.labels)
        return np.array([self._numbers[written]], np.int32)

    def stacked(self, labels: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the class indices, (B,)."""
        return labels[:, 0].astype(np.int64)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of texts."""
        return {"classes": len(batch.labels)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the texts' cross-entropies, each times the weight of the text's class."""
        logits = model(**batch.inputs()).logits
        weights = None if self._weights is None else self._weights.to(logits.device)
        return {"classes": F.cross_entropy(logits.float(), batch.labels, weights, reduction="sum")}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the sum of the losses, without class weights, and the number of texts whose class is predicted correctly."""
        logits = model(**batch.inputs()).logits
        loss, right = F.cross_entropy(logits.float(), batch.labels, reduction="sum"), (logits.argmax(-1) == batch.labels).sum()
        return {"classes": Sum(float(loss), len(batch.labels)), "accuracy": Sum(float(right), len(batch.labels))}

    def prepare(self, train: Sequence[tuple[Stored, float]]) -> None:
        """If `class_weights` is set, weight a class by (all rows) / (classes with rows * rows of the class), as scikit-learn's `balanced`.

        A row counts as often as an epoch reads it by the weight of its source: with a weight of 2.3, for example, 2.3 times on average.
        """
        if self.section.class_weights is not None:
            repeats = [(stored, *count_repeats(stored.name, weight, len(stored))) for stored, weight in train]
            read = [(passes + extra / len(stored)) * self._class_counts([stored]) for stored, passes, extra in repeats]
            counts = np.sum(read, axis=0)
            self._weights = torch.from_numpy(counts.sum() / ((counts > 0).sum() * np.where(counts > 0, counts, 1.0))).float()

    def notes(self, stored: Sequence[Stored]) -> list[str]:
        """Return a remark on the sizes of the largest and the smallest class if they differ by more than a factor of three; else none."""
        counts = self._class_counts(stored)
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] <= _IMBALANCE * counts[least]:
            return []
        sizes = f"{self.labels[most]!r} has {counts[most]:,} rows, {self.labels[least]!r} {counts[least]:,}"
        hint = "objective.class_weights=balanced gives their rows such weights that all classes count the same"
        weighted = "the loss weights rows so that all classes count the same" if self._weights is not None else hint
        return [f"the classes are unequal: {sizes}; {weighted}"]

    def _class_counts(self, stored: Sequence[Stored]) -> NDArray[np.int64]:
        """Count the rows of each class, (classes,)."""
        numbers = [np.asarray(examples.arrays["label"][0]) for examples in stored if isinstance(examples, ExampleSet)]
        return np.bincount(np.concatenate(numbers), minlength=len(self.labels))

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each row: its loss, its right and its likeliest class, and the probabilities of all classes."""
        logits = model(**batch.inputs()).logits.float()  # (B, classes)
        log_probs = logits.log_softmax(-1)
        best, losses = log_probs.max(-1), -log_probs.gather(1, batch.labels[:, None])[:, 0]
        columns = (column.tolist() for column in (batch.labels, best.indices, best.values, losses))
        for right, predicted, log_prob, loss, probabilities in zip(*columns, log_probs.exp().cpu().numpy(), strict=True):
            answer = {"label": self.labels[right], "predicted": self.labels[predicted], "probability": float(np.exp(log_prob))}
            answer["probabilities"] = LabelProbabilities(self.labels, probabilities)
            yield RowResult({"classes": Sum(loss, 1), "accuracy": Sum(float(predicted == right), 1)}, answer)

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the likeliest class of each row with its probability; `all_labels`: with the probabilities of all classes."""
        logits = model(**batch.inputs()).logits.float()  # (B, classes)
        yield from (class_answer(row, self.labels, all_labels=all_labels) for row in logits.softmax(-1).tolist())

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return a list with one function, which computes the metrics of the classes, given a weight for each row."""
        return [classification_metrics(*self._class_numbers(predictions))]

    def label_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the metrics of each class, and the confusion matrix."""
        return class_metrics(*self._class_numbers(predictions), self._all_labels(predictions))

    def class_numbers(self, batch: Batch) -> NDArray[np.int64]:
        """Return the index of the class of each row."""
        return batch.labels.cpu().numpy()

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: NO_LABEL, which counts as a wrong prediction."""
        return RowResult({"accuracy": Sum(0.0, 1)}, {"label": str(row.values["label"]), "predicted": NO_LABEL})

    def _all_labels(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the classes, and after them the other labels of `predictions`, which only rows that could not be encoded have."""
        return list(dict.fromkeys([*self.labels, *(row[name] for row in predictions for name in ("label", "predicted"))]))

    def _class_numbers(self, predictions: Sequence[Mapping[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the indices of the right and of the predicted classes: (N,) each."""
        numbers = {label: number for number, label in enumerate(self._all_labels(predictions))}
        right, predicted = (np.array([numbers[row[name]] for row in predictions], np.int64) for name in ("label", "predicted"))
        return right, predicted


def unknown_label(place: str, written: str, labels: Sequence[str]) -> BadRow:
    """Return the error for a label that neither the training rows nor the recipe have."""
    known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
    return BadRow(
        f"label {written!r}",
        f"{place}: the label {written!r} is none of {known}; correct the row, or name all in objective.labels",
        lost=True,
    )

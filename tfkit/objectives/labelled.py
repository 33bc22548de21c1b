"""Objectives of labelled rows: each row has an answer, which the model predicts.

An objective predicts rows without labels by two methods: `encode_unlabelled` encodes them as examples, and `answers` yields an Answer for
each row of the batch that `collate` makes of the examples. The `asked_roles` of an objective's section are the parts of a row, such as its
text, that these two methods read. If answers are generated texts, `prompt_ids` is called in place of `answers`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, Encoder, Example, ExampleRows, Row
from tfkit.data.columns.rows import BadRow
from tfkit.errors import UsageError
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import RowOrder, Stored, example_rows
from tfkit.objectives.metrics import Scores
from tfkit.objectives.objective import Batch, Objective, Sum, weighted_loss
from tfkit.tokenizer import Tokenizer

NO_LABEL = "(no answer)"  # the prediction for a row or a word that the model did not read


class RowResult(NamedTuple):
    """The sums of the objective's scores over one row's targets, and the row's fields in a file of predictions, such as the prediction."""

    sums: dict[str, Sum]
    prediction: dict[str, Any]


class Answer(NamedTuple):
    """The model's answer to a row, as JSON values.

    `probability` and `probabilities` are None if the answer has no probability; `probabilities` is also None if it was not requested. If
    the prediction is a list (of tags or labels), `probability` has a value for each; `probabilities` is a list only for the tags of words.
    """

    prediction: Any
    probability: float | list[float | None] | None = None
    probabilities: dict[str, float] | list[dict[str, float] | None] | None = None  # of each label, or of candidate spans

    def fields(self) -> dict[str, Any]:
        """Return the prediction, and the other fields that are not None."""
        return {name: value for name, value in self._asdict().items() if name == "prediction" or value is not None}


class LabelledObjective(Objective, Encoder, Protocol):
    """An objective that encodes each row as one example, and compares the model's answer with the row's."""

    means: Sequence[str] = ()  # the names of the sums of `measure` whose means are metrics
    cuts_answers: bool = False  # whether truncating a row may truncate its right answer; `completed` counts the part cut off as wrong
    evaluates_answers: bool = False  # whether evaluations in training report `answer_metrics`, and count unencodable rows as wrong

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Encode rows as `encode` does, with a placeholder for the label. By default raises UsageError: there is no answer to predict."""
        raise UsageError("this objective predicts no label of a row, and no text; continue texts with tfkit generate")

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the answer to each of `rows`, given the batch of their unlabelled examples; `all_labels`: with its `probabilities`."""
        raise AssertionError("the objective's answers are texts, or it has none")

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each row of a batch; metrics and predictions come from the same forward pass."""

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the sums of `predict` over all rows of a batch."""
        first, *others = [result.sums for result in self.predict(model, batch)]
        return {name: sum((row[name] for row in others), start=value) for name, value in first.items()}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return `loss`, the weighted sum of the terms' mean losses, and the mean of each sum that `means` names, such as accuracy."""
        return {"loss": weighted_loss(self.terms, sums), **{name: sums[name].mean for name in self.means}}

    def reference_values(self, model: Transformer, batch: Batch) -> Tensor:
        """Return a model's value, such as a log-probability, of each sequence, (C,). The initial model's are stored for the loss."""
        raise AssertionError("the objective has no reference model")

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return functions from row weights (how often a row counts) to metrics that are not sums over rows, such as F1; default: none."""
        return []

    def label_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return metrics of each label, such as the `classes` and `confusion` of class_metrics; none by default."""
        return {}

    def class_numbers(self, batch: Batch) -> NDArray[np.int64] | None:
        """Return the index of the right class of each row or word of a batch, (N,); None for answers that are not classes."""
        return None

    def wrong(self, row: Row) -> RowResult | None:
        """Return the result of a row that cannot be encoded: a wrong answer. None (the default): such a row is not scored."""
        return None

    def completed(self, row: Row, result: RowResult) -> RowResult:
        """Return the result of a truncated row with the truncated part of the answer counted as wrong."""
        return result

    @property
    def labelled(self) -> "LabelledObjective":
        """The objective itself."""
        return self

    @property
    def writer(self) -> "WritingObjective | None":
        """The objective itself if its answers are generated texts, else None."""
        return None

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> ExampleRows:
        """Return rows of one example each."""
        return example_rows(stored, order)


class EncoderObjective(LabelledObjective, Protocol):
    """An objective whose rows are encoded by another object, its encoder."""

    encoder: Encoder

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        return self.encoder.fingerprint()

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the example of each row, or its error."""
        return self.encoder.encode(rows)


class WritingObjective(LabelledObjective, Protocol):
    """An objective whose answers are generated texts."""

    tokenizer: Tokenizer
    start_id: int | None = None  # the first id that an encoder-decoder's decoder reads; None for a model that continues its prompt

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the ids after which the model generates its answer."""

    def references(self, row: Row, example: Example) -> list[str]:
        """Return the right answers of a row; at least one."""

    @property
    def writer(self) -> "WritingObjective":
        """The objective itself."""
        return self


def sums_by_row(values: Tensor, rows: Tensor, count: int) -> list[Sum]:
    """Return the Sum of each of `count` rows. `rows` (N,): the row index of each value. Computed on the CPU: Apple GPUs have no float64."""
    values, rows = values.cpu(), rows.cpu()
    totals = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values.double())
    return [Sum(total, targets) for total, targets in zip(totals.tolist(), rows.bincount(minlength=count).tolist(), strict=True)]


class LabelProbabilities(NamedTuple):
    """The probability of each label of one row, stored compactly."""

    labels: Sequence[str]
    values: NDArray[np.float32]  # (labels,)

    def by_label(self) -> dict[str, float]:
        """Return the probabilities by label."""
        return {label: short(value) for label, value in zip(self.labels, self.values, strict=True)}


def class_answer(probabilities: Sequence[float], labels: Sequence[str], *, all_labels: bool) -> Answer:
    """Return the likeliest label as an answer; `probabilities` are in the order of `labels`."""
    best = int(np.argmax(probabilities))
    by_label = {label: short(value) for label, value in zip(labels, probabilities, strict=True)} if all_labels else None
    return Answer(labels[best], short(probabilities[best]), by_label)


def label_columns(
    predictions: Sequence[Mapping[str, Any]], name: str, labels: Sequence[str]
) -> tuple[list[list[str]], list[list[str]], dict[str, int]]:
    """Return each row's right labels (its field `name`), each row's predicted labels, and the index of every label."""
    right, predicted = ([prediction[column] for prediction in predictions] for column in (name, "predicted"))
    all_labels = dict.fromkeys([*labels, *(label for rows in (right, predicted) for row in rows for label in row)])
    return right, predicted, {label: number for number, label in enumerate(all_labels)}


def short(value: float) -> float:
    """Return the number of fewest digits that has the same float32 value as `value`."""
    return float(str(np.float32(value)))


def not_blank(texts: list[str]) -> list[str]:
    """Return the texts with more than white space; if there are none, the first text, since each row needs a reference."""
    return [text for text in texts if text.strip()] or texts[:1]

"""Objectives of labelled rows: each row is an example of its own and has an answer, which the model gives row by row.

An objective gives its predictions for rows without an answer by two methods: `encode_unlabelled` makes examples of what the rows ask,
and `answers` gives an Answer for each row of the batch that `collate` made of them. Which parts of a row that reads is said by
`asked_roles` of its section. Where the answer is a text that the model writes, `prompt_ids` of such an example takes the place of
`answers`.
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
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.tokenizer import Tokenizer

NO_LABEL = "(no answer)"  # the prediction for a row, or a word, that the model was not given


class RowResult(NamedTuple):
    """The objective's sums of one row, and the prediction beside the right answer, as a file of predictions has them."""

    sums: dict[str, Sum]
    prediction: dict[str, Any]


class Answer(NamedTuple):
    """The model's answer to a row, as JSON has it. None: the answer has no probability, or those of all labels were not asked for.

    Where the answer is a list, such as the tags of words, so are the other two.
    """

    prediction: Any
    probability: float | list[float | None] | None = None
    probabilities: dict[str, float] | list[dict[str, float] | None] | None = None  # of each label


class LabelledObjective(Objective, Encoder, Protocol):
    """An objective that encodes each row as an example, and compares the model's answer with the row's."""

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Encode rows as `encode` does, with a label of no meaning in place of their own, which they need not have.

        Raises UsageError by default: an objective that compares answers, such as one of preferences, predicts none.
        """
        raise UsageError("this objective predicts no label of a row, and no text; continue texts with tfkit generate")

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Answer each row of a batch of unlabelled examples, `rows`; `all_labels`: with the probability of every label."""
        raise AssertionError("its answers are texts, or it gives none")

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """The result of each row of a batch: one forward gives both, so that metrics and predictions are of the same numbers."""

    def reference_values(self, model: Transformer, batch: Batch) -> Tensor:
        """Return the number of each sequence, (C,), that an objective asks the reference for once: the array `reference` beside `sizes`."""
        raise AssertionError("it reads no reference")

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Metrics of all answers together that no sum over rows gives, such as F1; none by default."""
        return []

    def answer_figures(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures of each label, by name, such as the `classes` and `confusion` of class_figures; none by default."""
        return {}

    def wrong(self, row: Row) -> RowResult | None:
        """The result of a row that is lost: a wrong answer. None by default: an answer that is a number is not wrong or right."""
        return None

    @property
    def cuts_answers(self) -> bool:
        """Whether a row that is cut to the context has a shorter answer than its own, which `completed` completes."""
        return False

    def completed(self, row: Row, result: RowResult) -> RowResult:
        """The result of a row that was cut, with what was cut off as wrong."""
        return result

    @property
    def evaluates_answers(self) -> bool:
        """Whether the evaluations of a training report `answer_metrics`, too."""
        return False

    @property
    def labelled(self) -> "LabelledObjective":
        """This objective."""
        return self

    @property
    def writer(self) -> "WritingObjective | None":
        """This objective where its answers are texts that the model writes, else None."""
        return None

    def open_rows(self, stored: Sequence[tuple[Stored, float]], order: RowOrder) -> ExampleRows:
        """Each example is a row."""
        return example_rows(stored, order)


class WritingObjective(LabelledObjective, Protocol):
    """An objective whose answers are texts."""

    tokenizer: Tokenizer

    def prompt_ids(self, example: Example) -> list[int]:
        """The ids that the model reads before it writes its answer."""

    def references(self, row: Row, example: Example) -> list[str]:
        """The texts that are right answers of a row; at least one."""

    @property
    def writer(self) -> "WritingObjective":
        """This objective."""
        return self

    @property
    def start_id(self) -> int | None:
        """The id that the decoder of an encoder-decoder begins with; None: the model continues from its prompt."""
        return None


def sums_by_row(values: Tensor, rows: Tensor, count: int) -> list[Sum]:
    """Values (N,) added up by their rows (N,), on the CPU: an Apple GPU has no float64."""
    values, rows = values.cpu(), rows.cpu()
    totals = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values.double())
    return [Sum(total, targets) for total, targets in zip(totals.tolist(), rows.bincount(minlength=count).tolist(), strict=True)]


class LabelProbabilities(NamedTuple):
    """The probability of each label, as small as it can be kept for each of many rows."""

    labels: Sequence[str]
    values: NDArray[np.float32]  # (labels,)

    def by_label(self) -> dict[str, float]:
        """Return the same by name."""
        return {label: short(value) for label, value in zip(self.labels, self.values, strict=True)}


def class_answer(probabilities: Sequence[float], labels: Sequence[str], *, all_labels: bool) -> Answer:
    """The likeliest label; `probabilities` are those of all labels, in their order."""
    best = int(np.argmax(probabilities))
    every = {label: short(value) for label, value in zip(labels, probabilities, strict=True)} if all_labels else None
    return Answer(labels[best], short(probabilities[best]), every)


def short(value: float) -> float:
    """The number with the fewest digits that is the same in float32."""
    return float(str(np.float32(value)))


def not_blank(texts: list[str]) -> list[str]:
    """The texts that hold more than white space; where none does, the first, since each row has a reference."""
    return [text for text in texts if text.strip()] or texts[:1]

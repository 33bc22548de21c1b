"""Objectives of labelled rows: each row is an example of its own and has an answer, which the model gives row by row."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tfkit.data import Encoder, Example, ExampleRows, Row
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import RowOrder, Stored, example_rows
from tfkit.objectives.metrics import Scores
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.tokenizer import Tokenizer


class RowResult(NamedTuple):
    """The objective's sums of one row, and the prediction beside the right answer, as a file of predictions has them."""

    sums: dict[str, Sum]
    prediction: dict[str, Any]


class LabelledObjective(Objective, Encoder, Protocol):
    """An objective that encodes each row as an example, and compares the model's answer with the row's."""

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """The result of each row of a batch: one forward gives both, so that metrics and predictions are of the same numbers."""

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Metrics of all answers together that no sum over rows gives, such as F1; none by default."""
        return []

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
        """The id that the decoder of an encoder-decoder begins with; None: the model goes on from its prompt."""
        return None


def sums_by_row(values: Tensor, rows: Tensor, count: int) -> list[Sum]:
    """Values (N,) added up by their rows (N,), on the CPU: an Apple GPU has no float64."""
    values, rows = values.cpu(), rows.cpu()
    totals = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values.double())
    return [Sum(total, targets) for total, targets in zip(totals.tolist(), rows.bincount(minlength=count).tolist(), strict=True)]


def not_blank(texts: list[str]) -> list[str]:
    """The texts that hold more than white space; where none does, the first, since each row has a reference."""
    return [text for text in texts if text.strip()] or texts[:1]

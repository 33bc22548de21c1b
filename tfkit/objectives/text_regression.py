"""Regression: a number for a text or for a pair of texts, such as their similarity."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Row, digest
from tfkit.data.columns.forms import ClassName
from tfkit.data.columns.rows import BadRow
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import Answer, RowResult, short
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.objective import Batch, Sum, weighted_loss
from tfkit.objectives.text_pairs import TextLabelling
from tfkit.recipe.column_forms import read_number
from tfkit.recipe.schema.label_sections import ClassificationSection
from tfkit.tokenizer import Tokenizer

_LARGEST = float(np.finfo(np.float32).max)


class Regression(TextLabelling):
    """Squared error, summed over texts."""

    terms: Mapping[str, float] = {"values": 1.0}
    placeholder = np.zeros(1, np.float32)

    def __init__(self, section: ClassificationSection, tokenizer: Tokenizer, row_length: int, start_id: int | None):
        """`start_id`: the first id of an encoder-decoder's decoder; None for other models."""
        self.section, self.tokenizer = section, tokenizer
        self.row_length, self.start_id = row_length, start_id

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        section = self.section.model_dump_json(exclude={"class_weights"})
        return digest("classification", section, (), self.tokenizer.fingerprint(), self.row_length, "float32")

    def target(self, row: Row) -> NDArray[np.float32] | BadRow:
        """Return the number that a row's label states, or the row's error."""
        value = label_value(row.values["label"])
        if value is None:
            written = row.values["label"]
            return BadRow("no number", f"{row.place}: the label {written!r} is not a number up to {_LARGEST:.2g}; correct the row")
        return np.array([value], np.float32)

    def stacked(self, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values, (B,)."""
        return labels[:, 0]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of texts."""
        return {"values": len(batch.labels)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the texts' squared errors."""
        return {"values": F.mse_loss(model(**batch.inputs()).logits.float()[:, 0], batch.labels, reduction="sum")}

    def measure(self, model: Transformer, batch: Batch) -> dict[str, Sum]:
        """Return the sum of the squared errors, and the number of texts."""
        return {"values": Sum(float(self.loss(model, batch)["values"]), len(batch.labels))}

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """Return `loss`, and `rmse`, its square root."""
        loss = weighted_loss(self.terms, sums)
        return {"loss": loss, "rmse": math.sqrt(loss)}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each row: its squared error, and its right and its predicted number."""
        values = model(**batch.inputs()).logits.float()[:, 0].tolist()
        for value, right in zip(values, batch.labels.tolist(), strict=True):
            yield RowResult({"values": Sum((value - right) ** 2, 1)}, {"value": short(right), "predicted": value})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the predicted number of each row, without a probability."""
        yield from (Answer(short(value)) for value in model(**batch.inputs()).logits.float()[:, 0].tolist())

    def answer_metrics(self, predictions: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Return a list with one function, which computes the error and the correlations, given a weight for each row."""
        return [regression_metrics(*(np.array([row[name] for row in predictions]) for name in ("value", "predicted")))]


def label_value(written: str) -> float | None:
    """Return the number that a label states; None if it is no number, or too large for float32. A class that a data set stores by its index
    counts as the number that its name is or, if its name is no number, as its index.
    """
    value = read_number(written)
    if value is None and isinstance(written, ClassName):
        value = float(written.number)
    return value if value is not None and abs(value) <= _LARGEST else None


def regression_metrics(targets: Numbers, predictions: Numbers) -> Scores:
    """Return a function from row weights (N,) to the metrics of the rows' predictions: `rmse`, `pearson`, and `spearman`, which is
    Pearson's correlation of ranks (ties: mean rank).

    The correlations equal scipy's: the correlation with a constant is NaN. If a prediction is not finite, all three metrics are NaN.
    """
    targets, predictions = targets.astype(np.float64), predictions.astype(np.float64)
    (_, target_ranks), (_, predicted_ranks) = (np.unique(values, return_inverse=True) for values in (targets, predictions))

    def scores(weights: Numbers) -> dict[str, float]:
        counted = weights > 0
        if not np.isfinite(predictions[counted]).all():
            return dict.fromkeys(("rmse", "pearson", "spearman"), math.nan)
        ranks = [_ranks(numbers, weights)[counted] for numbers in (target_ranks, predicted_ranks)]
        first, second, weights = targets[counted], predictions[counted], weights[counted]
        return {
            "rmse": math.sqrt(float(weights @ (first - second) ** 2) / float(weights.sum())),
            "pearson": _pearson(first, second, weights),
            "spearman": _pearson(ranks[0], ranks[1], weights),
        }

    return scores


def _pearson(first: Numbers, second: Numbers, weights: Numbers) -> float:
    if first.min() == first.max() or second.min() == second.max():
        return math.nan
    first, second = (values - weights @ values / weights.sum() for values in (first, second))
    first, second = (values / np.abs(values).max() for values in (first, second))  # otherwise the squares of tiny values underflow
    lengths = float(weights @ first**2), float(weights @ second**2)
    return min(1.0, max(-1.0, float(weights @ (first * second)) / (math.sqrt(lengths[0]) * math.sqrt(lengths[1]))))


def _ranks(numbers: Numbers, weights: Numbers) -> Numbers:
    """Return each row's rank if rows repeat by weight (ties: mean rank). `numbers` (N,): each value's index in np.unique of all."""
    counts = np.bincount(numbers, weights)
    return (counts.cumsum() - (counts - 1) / 2)[numbers]

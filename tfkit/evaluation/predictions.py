"""The results of labelled rows: the objective's sums, the prediction and the right answer of each; and the metrics of a set of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.data import Rows
from tfkit.evaluation.row_scores import judged_batches
from tfkit.generation.inference import Interrupted
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities
from tfkit.objectives.metrics import Numbers, Scores, together
from tfkit.objectives.metrics.texts import reference_metrics
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.parallel.rank_map import UNWATCHED, BatchWork

_PROBABILITIES = "label probabilities"


@dataclass(frozen=True)
class RowPrediction:
    """The result of one row."""

    number: int  # among the rows of its set
    sums: dict[str, Sum]  # the objective's sums over this row
    prediction: dict[str, Any] = field(default_factory=dict)  # the prediction and the right answer, as in a file of predictions


def judge_rows(
    model: Transformer,
    objective: LabelledObjective,
    rows: Rows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> list[RowPrediction] | None:
    """Return the results of the rows that `score_rows` scores, in the order of the data; None if the work was stopped."""
    judged: list[RowPrediction] = []

    def predict(batch: Batch) -> list[tuple[dict[str, Sum], dict[str, Any]]]:
        return [(result.sums, _packed(result.prediction)) for result in objective.predict(model, batch)]

    try:
        for numbers, results in judged_batches(model, objective, rows, batch_size, predict, max_tokens, work):
            for number, (sums, prediction) in zip(numbers, results, strict=True):
                judged.append(RowPrediction(int(number), {name: Sum(*value) for name, value in sums.items()}, _unpacked(prediction)))
    except Interrupted:
        return None
    return sorted(judged, key=lambda result: result.number)


def _packed(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction as JSON values, without loss of bits."""
    return {
        name: {_PROBABILITIES: [value.labels, value.values.tolist()]} if isinstance(value, LabelProbabilities) else value
        for name, value in prediction.items()
    }


def _unpacked(prediction: Mapping[str, Any]) -> dict[str, Any]:
    unpacked = dict(prediction)
    for name, value in prediction.items():
        if isinstance(value, dict) and value.keys() == {_PROBABILITIES}:
            labels, values = value[_PROBABILITIES]
            unpacked[name] = LabelProbabilities(labels, np.array(values, np.float32))
    return unpacked


def loss_metrics(objective: Objective, rows: Sequence[Mapping[str, Sum]]) -> Scores:
    """Return the objective's metrics from the sums of each row; a lost row may lack some."""
    names, zero = list(dict.fromkeys(name for row in rows for name in row)), Sum(0.0, 0)
    totals, targets = (
        np.array([[getattr(row.get(name, zero), part) for name in names] for row in rows], np.float64) for part in ("total", "targets")
    )  # (N, names)

    def scores(weights: Numbers) -> dict[str, float]:
        sums = zip(names, (weights @ totals).tolist(), (weights @ targets).tolist(), strict=True)
        return objective.metrics({name: Sum(total, round(count)) for name, total, count in sums})

    return scores


def answer_metrics(objective: LabelledObjective, judged: Sequence[RowPrediction]) -> Scores:
    """Return the objective's metrics from sums, and those that are not sums over rows."""
    of_sums = loss_metrics(objective, [result.sums for result in judged])
    return together([of_sums, *objective.answer_metrics([result.prediction for result in judged])])


def written_metrics(
    objective: LabelledObjective, judged: Sequence[RowPrediction], of_input: Numbers, text_metrics: Sequence[str], bleu_tokenize: str
) -> Scores:
    """Return the metrics of rows, and the named metrics of generated texts. `of_input` (N,): the number of each row's input.

    The weights are of inputs: each row has the weight of its input, whose one generated text is compared with all its references.
    """
    row_metrics, firsts = answer_metrics(objective, judged), np.unique(of_input, return_index=True)[1]
    texts = [judged[first].prediction for first in firsts]
    of_texts = reference_metrics([row["text"] for row in texts], [row["references"] for row in texts], text_metrics, bleu_tokenize)
    return lambda weights: row_metrics(weights[of_input]) | of_texts(weights)

"""The results of labelled rows, row by row: what the objective measures of each, the model's prediction, and the right answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfkit.data import ExampleRows
from tfkit.evaluation.row_scores import judged_batches
from tfkit.evaluation.set_metrics import loss_metrics
from tfkit.generation.inference import Interrupted
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities
from tfkit.objectives.metrics import Numbers, Scores, together
from tfkit.objectives.metrics.texts import reference_metrics
from tfkit.objectives.objective import Batch, Sum
from tfkit.parallel.deal import UNWATCHED, BatchWork

_PROBABILITIES = "label probabilities"


@dataclass(frozen=True)
class Judged:
    """A row that the model was asked about."""

    number: int  # among the rows of its set
    sums: dict[str, Sum]  # what the objective measures, of this row alone
    prediction: dict[str, Any] = field(default_factory=dict)  # with the right answer, as a file of predictions has it


def judge_rows(
    model: Transformer,
    objective: LabelledObjective,
    rows: ExampleRows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> list[Judged] | None:
    """The rows that `score_rows` scores, in the order of the data: all, or the first that have at most `max_tokens` together.

    None if the work was stopped.
    """
    found: list[Judged] = []

    def predict(batch: Batch) -> list[tuple[dict[str, Sum], dict[str, Any]]]:
        return [(result.sums, _packed(result.prediction)) for result in objective.predict(model, batch)]

    try:
        for numbers, results in judged_batches(model, objective, rows, batch_size, predict, max_tokens, work):
            for number, (sums, prediction) in zip(numbers, results, strict=True):
                found.append(Judged(int(number), {name: Sum(*one) for name, one in sums.items()}, _unpacked(prediction)))
    except Interrupted:
        return None
    return sorted(found, key=lambda one: one.number)


def _packed(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction as JSON can hold it, to the bit."""
    return {
        name: {_PROBABILITIES: [value.labels, value.values.tolist()]} if isinstance(value, LabelProbabilities) else value
        for name, value in prediction.items()
    }


def _unpacked(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_packed`."""
    found = dict(prediction)
    for name, value in prediction.items():
        if isinstance(value, dict) and value.keys() == {_PROBABILITIES}:
            labels, values = value[_PROBABILITIES]
            found[name] = LabelProbabilities(labels, np.array(values, np.float32))
    return found


def answer_metrics(objective: LabelledObjective, judged: Sequence[Judged]) -> Scores:
    """The objective's own metrics, and those of all answers together."""
    return together([loss_metrics(objective, [one.sums for one in judged]), *objective.answer_metrics([one.prediction for one in judged])])


def written_metrics(
    objective: LabelledObjective, judged: Sequence[Judged], of_input: Numbers, text_metrics: Sequence[str], bleu_tokenize: str
) -> Scores:
    """The same of rows whose inputs have the numbers `of_input` (N,), and those of the written texts, which are named.

    Their weights are of inputs: each row counts as often as its input, and a written text once for it, against all its references.
    """
    of_rows, firsts = answer_metrics(objective, judged), np.unique(of_input, return_index=True)[1]
    written = [judged[first].prediction for first in firsts]
    of_texts = reference_metrics([one["text"] for one in written], [one["references"] for one in written], text_metrics, bleu_tokenize)
    return lambda weights: of_rows(weights[of_input]) | of_texts(weights)

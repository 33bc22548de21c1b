"""The results of labelled rows, row by row: what the objective measures of each, the model's prediction, and the right answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfkit.data import ExampleRows
from tfkit.evaluation.row_scores import judged_batches
from tfkit.evaluation.set_metrics import loss_metrics
from tfkit.generation.inference import Interrupted
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import LabelledObjective
from tfkit.objectives.metrics import Scores, together
from tfkit.objectives.metrics.texts import reference_metrics
from tfkit.objectives.objective import Sum


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
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Judged] | None:
    """The rows that `score_rows` scores, in the order of the data: all, or the first that have at most `max_tokens` together.

    `progress(n)` reports n more rows. None if `should_stop`, asked before every batch, said so.
    """
    found: list[Judged] = []
    try:
        for numbers, batch in judged_batches(model, objective, rows, batch_size, max_tokens, progress, should_stop):
            results = objective.predict(model, batch)
            found += [Judged(int(number), *result) for number, result in zip(numbers, results, strict=True)]
    except Interrupted:
        return None
    return sorted(found, key=lambda one: one.number)


def answer_metrics(objective: LabelledObjective, judged: Sequence[Judged], text_metrics: Sequence[str] = ()) -> Scores:
    """The objective's own metrics, those of all answers together, and of written texts those that are named."""
    predictions = [one.prediction for one in judged]
    parts = [loss_metrics(objective, [one.sums for one in judged]), *objective.answer_metrics(predictions)]
    if text_metrics:
        parts.append(reference_metrics([one["text"] for one in predictions], [one["references"] for one in predictions], text_metrics))
    return together(parts)

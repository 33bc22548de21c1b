"""Scores of an objective on held-out rows: each row is scored once, in a fixed order, with the same random choices at every evaluation.

For labelled rows, the results include the prediction and the right answer of each row, and metrics that are computed from these two.
Answers that are texts, such as translations, are generated greedily or by beam search, as the section `generation` says, but never
by sampling.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tfkit.data import ExampleRows, Rows
from tfkit.data.store.example_sets import Example
from tfkit.errors import Stopped
from tfkit.generation.complete import complete
from tfkit.generation.inference import inference
from tfkit.generation.next_token import Constraints
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import LabelledObjective, LabelProbabilities, WritingObjective
from tfkit.objectives.metrics import Numbers, Scores, together
from tfkit.objectives.metrics.texts import reference_metrics
from tfkit.objectives.objective import Batch, Objective, Sum
from tfkit.parallel.rank_map import UNWATCHED, BatchWork, Result
from tfkit.recipe.schema.output_sections import GenerationSection
from tfkit.tokenizer.conversations import end_ids

Set = TypeVar("Set")


def score_rows(
    model: Transformer, objective: Objective, rows: Rows, batch_size: int, *, max_tokens: int | None = None, work: BatchWork = UNWATCHED
) -> Mapping[str, Sum]:
    """Return the objective's sums (Objective.measure) over all rows; with `max_tokens`, over the first rows, as many as `first_rows`
    returns. Raises Stopped if `work` is stopped.
    """
    sums: dict[str, Sum] = {}

    def measure(batch: Batch) -> dict[str, Sum]:
        return dict(objective.measure(model, batch))

    for _, measured in judged_batches(model, objective, rows, batch_size, measure, max_tokens, work):
        for name, value in measured.items():
            sums[name] = sums[name] + Sum(*value) if name in sums else Sum(*value)
    return sums


def judged_batches(
    model: Transformer,
    objective: Objective,
    rows: Rows,
    batch_size: int,
    compute: Callable[[Batch], Result],
    max_tokens: int | None,
    work: BatchWork,
) -> Iterator[tuple[NDArray[np.int64], Result]]:
    """Yield the row indices of each batch and the result of `compute` for this batch. `compute` runs in inference mode.

    `max_tokens`: use only the first rows, as many as `first_rows` returns; None: use all rows. Raises Stopped if `work` is stopped.
    """
    device = next(model.parameters()).device

    def compute_batch(numbers: NDArray[np.int64]) -> Result:
        if work.is_stopped():
            raise Stopped("stopped during the evaluation")
        return compute(objective.collate(rows.gather(np.zeros(len(numbers), np.int64), numbers)).to(device))

    with inference(model):
        order = rows.order(0)  # groups rows of similar lengths, to reduce padding
        order = order[order < first_rows(rows, max_tokens)]
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for numbers, result in zip(batches, work.deal(compute_batch, batches), strict=True):
            yield numbers, result
            work.progress(len(numbers))


def first_rows(rows: Rows, max_tokens: int | None) -> int:
    """Return how many of the first rows have at most `max_tokens` tokens together; at least 1. None: all rows. For rows cut from texts, the
    number is estimated from their mean length.
    """
    if max_tokens is None:
        return len(rows)
    if isinstance(rows, ExampleRows):
        return max(1, int(np.searchsorted(np.cumsum(rows.row_lengths()), max_tokens, side="right")))
    return min(len(rows), max(1, int(max_tokens / rows.mean_tokens)))


def tokens_of_first(rows: Rows, count: int) -> int:
    """Return the number of tokens of the first `count` rows; for rows cut from texts, an estimate from the mean length of a row."""
    return int(rows.row_lengths()[:count].sum()) if isinstance(rows, ExampleRows) else round(count * rows.mean_tokens)


class TokenBudget:
    """The number of tokens that may still be scored (`left`; None: unlimited). All data sets of an evaluation share it."""

    def __init__(self, max_tokens: int | None):
        self.left = max_tokens

    def until_spent(self, sets: Iterable[Set]) -> Iterator[Set]:
        """Yield the data sets in turn as long as tokens are left. The caller must call `spend` after each set."""
        for each in sets:
            if self.left is not None and self.left <= 0:
                return
            yield each

    def spend(self, tokens: int) -> None:
        """Subtract the number of tokens that were scored in a data set."""
        if self.left is not None:
            self.left -= tokens


_PROBABILITIES = "label probabilities"  # the key under which `_packed` puts LabelProbabilities


@dataclass(frozen=True)
class RowPrediction:
    """The result of scoring one row."""

    number: int  # the index of the row in its data set
    sums: dict[str, Sum]  # of each score of the objective, such as its loss, the sum over this row's targets
    prediction: dict[str, Any] = field(default_factory=dict)  # the prediction and the right answer, as fields in the file of --predictions


def judge_rows(
    model: Transformer,
    objective: LabelledObjective,
    rows: Rows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    work: BatchWork = UNWATCHED,
) -> list[RowPrediction]:
    """Return each row's result, in the order of the data. `max_tokens`: as in `judged_batches`. Raises Stopped if `work` is stopped."""
    judged: list[RowPrediction] = []

    def predict(batch: Batch) -> list[tuple[dict[str, Sum], dict[str, Any]]]:
        return [(result.sums, _packed(result.prediction)) for result in objective.predict(model, batch)]

    for numbers, results in judged_batches(model, objective, rows, batch_size, predict, max_tokens, work):
        for number, (sums, prediction) in zip(numbers, results, strict=True):
            judged.append(RowPrediction(int(number), {name: Sum(*value) for name, value in sums.items()}, _unpacked(prediction)))
    return sorted(judged, key=lambda result: result.number)


def _packed(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction as JSON values, which ranks can exchange, without loss of precision."""
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
    """Return a function that maps a weight per row to the objective's metrics. `rows`: each row's sums, some of which may be missing."""
    names, zero = list(dict.fromkeys(name for row in rows for name in row)), Sum(0.0, 0)
    totals, targets = (
        np.array([[getattr(row.get(name, zero), part) for name in names] for row in rows], np.float64) for part in ("total", "targets")
    )  # (N, names)

    def scores(weights: Numbers) -> dict[str, float]:
        sums = zip(names, (weights @ totals).tolist(), (weights @ targets).tolist(), strict=True)
        return objective.metrics({name: Sum(total, round(count)) for name, total, count in sums})

    return scores


def answer_metrics(objective: LabelledObjective, judged: Sequence[RowPrediction]) -> Scores:
    """Return a function that maps a weight per row to the objective's metrics, both those from sums and those from predictions."""
    of_sums = loss_metrics(objective, [result.sums for result in judged])
    return together([of_sums, *objective.answer_metrics([result.prediction for result in judged])])


def deterministic(settings: GenerationSection) -> GenerationSection:
    """Return the section `generation` with temperature 0, so that evaluations do not sample."""
    return settings.model_copy(update={"temperature": 0.0})


def write_texts(
    model: Transformer,
    objective: WritingObjective,
    examples: Sequence[Example],
    settings: GenerationSection,
    batch_size: int,
    work: BatchWork = UNWATCHED,
) -> list[str]:
    """Return the text that the model generates as the answer to each example, in the order of `examples`."""
    tokenizer = objective.tokenizer
    prompts = [objective.prompt_ids(example) for example in examples]
    ends, start_id, constraints = end_ids(tokenizer), objective.start_id, Constraints(forced_first=tokenizer.forced_first_id)
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # longest first: similar lengths in a batch
    texts = [""] * len(prompts)

    def write(numbers: Sequence[int]) -> list[str]:
        batch = [prompts[number] for number in numbers]
        completions = complete(model, tokenizer, batch, settings, eos_ids=ends, start_id=start_id, constraints=constraints)
        return [completion.text.strip() for completion in completions]

    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    for numbers, written in zip(batches, work.deal(write, batches), strict=True):
        for number, text in zip(numbers, written, strict=True):
            texts[number] = text
        work.progress(len(numbers))
    return texts


def written_metrics(
    objective: LabelledObjective, judged: Sequence[RowPrediction], of_input: Numbers, text_metrics: Sequence[str], bleu_tokenize: str
) -> Scores:
    """Return a function that maps a weight per distinct input to the metrics of the rows and the `text_metrics` of the generated texts.

    `of_input` (N,): the index of each row's input; the row gets the weight of this input. The text that is generated for an input is
    compared with all references of the input.
    """
    row_metrics, firsts = answer_metrics(objective, judged), np.unique(of_input, return_index=True)[1]
    texts = [judged[first].prediction for first in firsts]
    of_texts = reference_metrics([row["text"] for row in texts], [row["references"] for row in texts], text_metrics, bleu_tokenize)
    return lambda weights: row_metrics(weights[of_input]) | of_texts(weights)

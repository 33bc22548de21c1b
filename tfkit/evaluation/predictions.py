"""What a model says of labelled rows, row by row: the class, the number, the tags, the choice; and what the objective measures of each.

One forward gives both, so that the metrics of a set and the predictions in its file are of the same numbers. What texts the model writes
stands in written.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.data import ExampleRows
from tfkit.evaluation.row_scores import judged_batches
from tfkit.generation.inference import Interrupted
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import label_log_probs
from tfkit.objectives.chat import Chat
from tfkit.objectives.classification import Classification
from tfkit.objectives.log_probs import token_scores
from tfkit.objectives.multiple_choice import MultipleChoice
from tfkit.objectives.objective import IGNORED, Batch, Sum
from tfkit.objectives.tagging import Tagging
from tfkit.objectives.text_to_text import TextToText

Labelled = Classification | Tagging | MultipleChoice | TextToText | Chat  # the objectives whose rows each have an answer


@dataclass(frozen=True)
class Judged:
    """A row that the model was asked about."""

    number: int  # among the rows of its set
    sums: dict[str, Sum]  # what the objective measures, of this row alone
    said: dict[str, Any] = field(default_factory=dict)  # the answer, and the right one, as they stand in a file of predictions


_Row = tuple[dict[str, Sum], dict[str, Any]]  # of Judged: sums, said


def judge_rows(
    model: Transformer,
    objective: Labelled,
    rows: ExampleRows,
    batch_size: int,
    *,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Judged] | None:
    """The rows that `score_rows` scores, in the order of the data: all, or the first that have at most `max_tokens` together.

    `progress(n)` tells of n more rows. None if `should_stop`, asked before every batch, said so.
    """
    judge = _judge_of(objective)
    found: list[Judged] = []
    try:
        for numbers, batch in judged_batches(model, objective, rows, batch_size, max_tokens, progress, should_stop):
            answers = judge(model, batch)
            found += [Judged(int(number), *answer) for number, answer in zip(numbers, answers, strict=True)]
    except Interrupted:
        return None
    return sorted(found, key=lambda one: one.number)


def _judge_of(objective: Labelled) -> Callable[[Transformer, Batch], Iterator[_Row]]:
    match objective:
        case Classification() if objective.section.regression:
            return _number
        case Classification():
            return lambda model, batch: _class(objective, model, batch)
        case Tagging():
            return lambda model, batch: _tags(objective, model, batch)
        case MultipleChoice():
            return lambda model, batch: _choice(objective, model, batch)
        case TextToText():
            return lambda model, batch: _words(objective.smoothing, model, batch)
        case Chat():
            return lambda model, batch: _words(0.0, model, batch)


def _number(model: Transformer, batch: Batch) -> Iterator[_Row]:
    """The value, and the one that it is to be, with the digits of float32."""
    told = model(**batch.inputs()).logits.float()[:, 0]  # (B,)
    for value, right in zip(told.tolist(), batch.labels.tolist(), strict=True):
        yield {"classes": Sum((value - right) ** 2, 1)}, {"value": float(str(np.float32(right))), "predicted": value}


def _class(objective: Classification, model: Transformer, batch: Batch) -> Iterator[_Row]:
    """The likeliest class with its probability."""
    log_probs = model(**batch.inputs()).logits.float().log_softmax(-1)  # (B, classes)
    best = log_probs.max(-1)
    losses = -log_probs.gather(1, batch.labels[:, None])[:, 0]
    for right, told, log_prob, loss in zip(*(part.tolist() for part in (batch.labels, best.indices, best.values, losses)), strict=True):
        said = {"label": objective.labels[right], "predicted": objective.labels[told], "probability": float(np.exp(log_prob))}
        yield {"classes": Sum(loss, 1), "accuracy": Sum(float(told == right), 1)}, said


def _tags(objective: Tagging, model: Transformer, batch: Batch) -> Iterator[_Row]:
    """The tag of each word that the model has read."""
    logits = model(**batch.inputs()).logits.float()  # (B, T, tags)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="none").view_as(batch.labels)
    sums = losses.cpu().double().sum(1).tolist()
    for loss, labels, told in zip(sums, batch.labels.tolist(), logits.argmax(-1).tolist(), strict=True):
        words = [place for place, label in enumerate(labels) if label != IGNORED]
        right, mine = ([objective.labels[numbers[place]] for place in words] for numbers in (labels, told))
        hits = sum(one == other for one, other in zip(right, mine, strict=True))
        yield {"tags": Sum(loss, len(words)), "accuracy": Sum(float(hits), len(words))}, {"tags": right, "predicted": mine}


def _choice(objective: MultipleChoice, model: Transformer, batch: Batch) -> Iterator[_Row]:
    """The answer with the highest score, counted from 0; and what the language model makes of all of them."""
    output = model(**batch.inputs())
    rows = batch.more["row"]
    scores = output.extra_logits[:, 0].float()  # (C,): a score for each answer of each row
    of_rows = rows.bincount().tolist()
    lm: list[Sum] | None = None
    if "lm" in objective.terms:
        log_probs = label_log_probs(model, output.hidden, batch.labels)
        lm = _of_rows(-log_probs, rows[:, None].expand_as(batch.labels)[batch.labels != IGNORED], len(of_rows))
    pairs = zip(scores.split(of_rows), batch.more["right"].split(of_rows), strict=True)
    for number, (mine, is_right) in enumerate(pairs):
        right, told = int(is_right.int().argmax()), int(mine.argmax())
        loss = Sum(float(mine.logsumexp(0) - mine[right]), 1)
        sums = {"choices": loss} | ({"lm": lm[number]} if lm else {}) | {"accuracy": Sum(float(told == right), 1)}
        yield sums, {"right": right, "predicted": told, "scores": mine.tolist()}


def _words(smoothing: float, model: Transformer, batch: Batch) -> Iterator[_Row]:
    """The words of the target, each with all before it given."""
    hidden, targets = model(**batch.inputs()).hidden, batch.labels != IGNORED  # (B, T, D), (B, T)
    scores = token_scores(vocabulary_head(model.head), hidden[targets], batch.labels[targets])
    rows = targets.nonzero()[:, 0]  # (N,)
    losses = -((1 - smoothing) * scores.log_probs.cpu().double() + smoothing * scores.mean_log_probs.cpu().double())
    parts = {"lm": losses, "nll": -scores.log_probs, "right": scores.right}
    sums = {name: _of_rows(values, rows, len(targets)) for name, values in parts.items()}
    for number in range(len(targets)):
        yield {name: found[number] for name, found in sums.items()}, {}


def _of_rows(values: Tensor, rows: Tensor, count: int) -> list[Sum]:
    """Values (N,) added up by their rows (N,), on the CPU: an Apple GPU has no float64."""
    values, rows = values.cpu(), rows.cpu()
    totals = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, values.double())
    return [Sum(total, targets) for total, targets in zip(totals.tolist(), rows.bincount(minlength=count).tolist(), strict=True)]

"""Evaluation of rows by the likelihood of texts: questions about each row, and its scores from their answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfkit.data import Row
from tfkit.data.columns.rows import BadRow, OnBadRow, Skipped, skip
from tfkit.evaluation.likelihood import Likelihood, Question, encode_questions, score_questions
from tfkit.model.transformer import Transformer
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.tokenizer import Tokenizer

_BLOCK_ROWS = 256  # rows whose questions are sorted together, so that texts of similar lengths share batches


class Verdict(NamedTuple):
    """The score of one row in each metric (usually 0 or 1), and its line in a file of predictions."""

    scores: dict[str, float]
    prediction: dict[str, Any]


class Judge(Protocol):
    """A way to score rows by likelihood."""

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return the questions about row `number` of its set, or the row's error."""

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return the result of a row from the answers to its questions."""


@dataclass
class Judgement:
    """The results of a set's rows, in order."""

    verdicts: list[Verdict] = field(default_factory=list)
    tokens: int = 0  # tokens read
    cut: int = 0  # rows with texts truncated on the left


def judge_by_likelihood(
    model: Transformer,
    tokenizer: Tokenizer,
    judge: Judge,
    rows: Iterable[Row],
    batch_size: int,
    *,
    start_id: int | None = None,
    max_tokens: int | None = None,
    on_bad_row: OnBadRow = "error",
    skipped: dict[str, Skipped] | None = None,
    work: BatchWork = UNWATCHED,
) -> Judgement:
    """Score all rows, or the first rows with at most `max_tokens` in total; the first row is always scored.

    `start_id` is for an encoder-decoder. Raises DataError for a bad row, unless bad rows are skipped and counted in `skipped` by kind.
    """
    judgement, numbered = Judgement(), enumerate(rows)
    while block := list(islice(numbered, _BLOCK_ROWS)):
        good: list[tuple[Row, list[Question]]] = []
        for number, row in block:
            asked = judge.questions(number, row)
            if isinstance(asked, list):
                good.append((row, asked))
            elif on_bad_row == "error":
                raise asked.refusal()
            elif skipped is not None:
                skip(asked, skipped)
        questions = [question for _, asked in good for question in asked]
        encoded = encode_questions(tokenizer, questions, start_id)
        ends = np.cumsum([len(asked) for _, asked in good], dtype=np.int64)
        read = judgement.tokens + np.cumsum([len(question.ids) + len(question.source) for question in encoded], dtype=np.int64)[ends - 1]
        room = len(good) if max_tokens is None else int(np.searchsorted(read, max_tokens, side="right"))
        kept = min(len(good), max(room, 0 if judgement.verdicts else 1))
        if kept:
            last = int(ends[kept - 1])
            answers = iter(score_questions(model, questions[:last], encoded[:last], batch_size, work))
            for row, asked in good[:kept]:
                row_answers = list(islice(answers, len(asked)))
                judgement.cut += any(answer.cut for answer in row_answers)
                verdict = judge.verdict(row, asked, row_answers)
                judgement.verdicts.append(Verdict(verdict.scores, {"place": row.place, **verdict.prediction}))
            judgement.tokens = int(read[kept - 1])
        work.progress(len(block))
        if kept < len(good):
            break
    return judgement


def verdict_metrics(verdicts: Sequence[Verdict]) -> Scores:
    """Return the mean of each metric over the rows that have it; NaN if none has."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.scores))
    table = [[verdict.scores.get(name, np.nan) for name in names] for verdict in verdicts]
    known = np.array(table, np.float64).reshape(len(verdicts), len(names))  # (N, names), for no rows too
    has = (~np.isnan(known)).astype(np.float64)
    values = np.nan_to_num(known)

    def scores(weights: Numbers) -> dict[str, float]:
        totals, counts = weights @ values, weights @ has
        return {name: float(total / count) if count else np.nan for name, total, count in zip(names, totals, counts, strict=True)}

    return scores

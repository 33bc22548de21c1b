"""Evaluation of rows by the likelihood of texts: a judge requests values of log P(continuation | context), and scores each row by them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfkit.data import Row
from tfkit.data.columns.rows import BadRow, OnBadRow, Skipped, skip
from tfkit.errors import DataError
from tfkit.evaluation.likelihood import Likelihood, Question, encode_questions, score_questions
from tfkit.model.transformer import Transformer
from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.multiple_choice import right_choice
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.recipe.schema.label_sections import FewShotSection
from tfkit.tokenizer import Tokenizer

_BLOCK_ROWS = 256  # number of rows whose questions are sorted by length together, so that those of a batch have similar lengths


class Verdict(NamedTuple):
    """The score of one row in each metric (usually 0 or 1), and the row's fields in the file of --predictions."""

    scores: dict[str, float]
    prediction: dict[str, Any]


class Judge(Protocol):
    """A method of scoring rows by likelihood. JUDGES lists the implementations."""

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return the questions about a row, or the row's error. `number`: the row's index in its data set."""

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return the result of a row from the answers to its questions."""


@dataclass
class Judgement:
    """The results of a data set's rows, in the order of the rows."""

    verdicts: list[Verdict] = field(default_factory=list)
    tokens: int = 0  # the number of tokens of all questions
    cut: int = 0  # the number of rows with contexts that were truncated on the left


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
    """Score all rows or, with `max_tokens`, as many of the first as have at most `max_tokens` tokens in all questions, but at least one.

    `start_id`: the decoder's start token in an encoder-decoder. Raises DataError for a bad row; if `on_bad_row` is "skip", bad rows are
    counted in `skipped` instead.
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
    """Return a function that maps a weight per row to the weighted mean of each metric over the rows that have the metric.

    A mean is NaN if all rows with the metric have the weight 0.
    """
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.scores))
    table = [[verdict.scores.get(name, np.nan) for name in names] for verdict in verdicts]
    known = np.array(table, np.float64).reshape(len(verdicts), len(names))  # (N, names), also if N is 0
    has = (~np.isnan(known)).astype(np.float64)
    values = np.nan_to_num(known)

    def scores(weights: Numbers) -> dict[str, float]:
        totals, counts = weights @ values, weights @ has
        return {name: float(total / count) if count else np.nan for name, total, count in zip(names, totals, counts, strict=True)}

    return scores


class FewShot:
    """A judge of multiple choice, with or without examples in the prompt (GPT-3, Brown et al. 2020, arXiv 2005.14165, section 2.4). Its
    prediction is the answer with the highest likelihood, normalized as objective.normalize says; each normalization gives an accuracy.

        context and answer of row 17         each formatted by the template
        <separator>
        context and answer of row 4
        <separator>
        context of the row in question       each of its answers is scored after this
    """

    def __init__(self, section: FewShotSection, examples: Iterable[Row] = (), on_bad_row: OnBadRow = "error"):
        """`examples`: the rows from which the examples of prompts are drawn; not read if `section.shots` is 0. Raises DataError for a bad
        row, unless `on_bad_row` is "skip".
        """
        self.section = section
        self._before, _, self._between = section.template.removesuffix("{answer}").partition("{context}")
        self._alone = self._between.lstrip() or self._between  # spaces alone are kept: these belong to the answer
        self._examples: list[tuple[bytes, str]] = []  # the hash of each example's row, and the formatted example
        for row in examples if section.shots else ():
            right = self._right(row)
            if isinstance(right, BadRow):
                if on_bad_row == "skip":
                    continue
                raise right.refusal()
            self._examples.append((_hash(row), self._question(row) + self._choices(row)[right]))
        self._copies = Counter(text_hash for text_hash, _ in self._examples)

    def prompt(self, number: int, row: Row) -> str:
        """Return the text before each answer: examples, drawn by objective.seed and the row's index `number`, and the row's context."""
        return self.section.separator.join([*self._drawn(number, row), self._question(row)])

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return two questions per answer. In the first half of the list, answers follow the prompt; in the second half, they follow only
        the text that the template has between `{context}` and `{answer}`. `number`: the row's index in its data set.
        """
        right = self._right(row)
        if isinstance(right, BadRow):
            return right
        choices, prompt = self._choices(row), self.prompt(number, row)
        # GPT-3: "normalize by the unconditional probability of each completion, by computing P(completion | context) /
        # P(completion | answer_context), where answer_context is [...] used to prompt that the completion should be an answer".
        return [Question(context, choice) for context in (prompt, self._alone) for choice in choices]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return the row's accuracy by each normalization of the likelihoods (0 or 1), and by chance (1 / number of answers). The
        prediction is the likeliest answer; of equally likely ones, the first.
        """
        choices, right = self._choices(row), self._right(row)
        assert isinstance(right, int)
        with_prompt, alone = answers[: len(choices)], answers[len(choices) :]
        sums = [answer.log_prob for answer in with_prompt]
        likelihood = {
            "none": sums,
            "tokens": [answer.log_prob / max(answer.tokens, 1) for answer in with_prompt],
            "bytes": [answer.log_prob / max(answer.bytes, 1) for answer in with_prompt],
            "unconditional": [answer.log_prob - unconditional.log_prob for answer, unconditional in zip(with_prompt, alone, strict=True)],
        }
        best = {name: int(np.argmax(values)) for name, values in likelihood.items()}
        predicted = best[self.section.normalize]
        scores = {"accuracy": float(predicted == right)} | {f"accuracy_{name}": float(one == right) for name, one in best.items()}
        prediction = {"prompt": asked[0].context, "choices": choices, "scores": likelihood[self.section.normalize]}
        prediction |= {"label": choices[right], "predicted": choices[predicted]}
        return Verdict(scores | {"chance": 1 / len(choices)}, prediction)

    def _drawn(self, number: int, row: Row) -> list[str]:
        """Return the examples of a prompt; rows with the same text as `row` are never drawn. Raises DataError if too few rows are left."""
        section = self.section
        if not section.shots:
            return []
        row_hash = _hash(row)
        copies = self._copies[row_hash]
        if len(self._examples) - copies < section.shots:
            has = f"{len(self._examples)} rows" + (f", {copies} of them the row itself" if copies else "")
            raise DataError(f"{row.place}: objective.shots is {section.shots}, but data.train has {has}; lower objective.shots")
        random = np.random.Generator(np.random.PCG64([section.seed, number]))
        order = random.choice(len(self._examples), section.shots + copies, replace=False)
        return [example for text_hash, example in (self._examples[i] for i in order) if text_hash != row_hash][: section.shots]

    def _question(self, row: Row) -> str:
        """Return a row's text by the template, up to its answer."""
        return f"{self._before}{row.values['context']}{self._between}"

    def _choices(self, row: Row) -> list[str]:
        return row.values.get("choices") or self.section.choices or []

    def _right(self, row: Row) -> int | BadRow:
        choices = self._choices(row)
        if not choices:
            return BadRow(
                "no answers",
                f"{row.place}: no answers to choose from; name their columns with columns: {{choices: [NAME, NAME]}}, or list "
                "them in objective.choices",
            )
        return right_choice(row.place, choices, row.values["label"])


def _hash(row: Row) -> bytes:
    return blake2b(row.text.encode(errors="surrogatepass"), digest_size=8).digest()


class MinimalPairs:
    """A judge of pairs of sentences: the model is right if log P(good) > log P(bad), as in BLiMP (Warstadt et al. 2020, arXiv 1912.00582).

    Rows with a group also have the metric `accuracy.<group>`.
    """

    def questions(self, number: int, row: Row) -> list[Question] | BadRow:
        """Return a question for each of the two sentences, without context."""
        if empty := [side for side in ("good", "bad") if not row.values[side].strip()]:
            what = f"the {' and the '.join(empty)} sentence"
            return BadRow("an empty sentence", f"{row.place}: {what} is empty; remove the row")
        return [Question("", row.values["good"]), Question("", row.values["bad"])]

    def verdict(self, row: Row, asked: Sequence[Question], answers: Sequence[Likelihood]) -> Verdict:
        """Return an accuracy of 1 if the good sentence is more probable, else 0, also if both are equally probable."""
        good, bad = (answer.log_prob for answer in answers)
        right, group = float(good > bad), row.values.get("group")
        scores = {"accuracy": right} | ({} if group is None else {f"accuracy.{group}": right})
        return Verdict(scores, {"good": good, "bad": bad, "right": good > bad} | ({} if group is None else {"group": group}))


# The constructor of each judge, by objective.kind. Its arguments are the section, the rows of data.train (empty if
# the judge does not read them) and data.on_bad_row.
JUDGES: dict[str, Callable[[Any, Iterable[Row], OnBadRow], Judge]] = {
    "minimal_pairs": lambda section, examples, on_bad_row: MinimalPairs(),
    "few_shot": FewShot,
}

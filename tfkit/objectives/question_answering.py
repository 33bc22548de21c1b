"""Extractive question answering: find the span of a context that answers a question (BERT, arXiv 1810.04805, sections 4.2 and 4.3).

A long context is read in overlapping windows. Each is a sequence, `[CLS] question [SEP] window [SEP]`, in which the model predicts the
first and the last token of the answer, or [CLS] for both if the window lacks the answer. The loss is the mean of the two cross-entropies
over the sequence's tokens, as in transformers, but without padding. The predicted answer is the span, over all windows of the question,
with the largest sum of its first token's and its last token's logits; with `unanswerable`, none if [CLS] has a larger sum in each window.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tfkit.data import Encoded, ExampleBatch, Row, digest
from tfkit.data.columns.rows import BadRow
from tfkit.errors import ModelError
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.labelled import Answer, LabelledObjective, RowResult, short
from tfkit.objectives.metrics.texts import answer_scores
from tfkit.objectives.objective import Batch, Sum
from tfkit.objectives.text_pairs import no_room
from tfkit.recipe.schema.question_answering_section import QuestionAnsweringSection
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import QuestionWindows, Window, WindowEncoder, joins_pairs

_BEST = 20  # the most candidate spans of a question; the probabilities of these and of no answer add up to 1, as in BERT's run_squad.py
_FORWARD_WINDOWS = 64  # the most windows in a forward pass without gradients; the windows of a question may take several passes
Answers = Sequence[Mapping[str, Any]]  # the right answers of a row, each with text and answer_start


class Span(NamedTuple):
    """A span of characters in a context, empty for no answer, and its score: the sum of the logits of its first and its last token."""

    score: float
    start: int
    end: int


NO_ANSWER = (0, 0)


class QuestionAnswering(LabelledObjective):
    """Cross-entropy of the first and the last token of the answer, summed over windows."""

    terms: Mapping[str, float] = {"spans": 1.0}
    evaluates_answers = True  # so that in evaluations during training a row that cannot be encoded counts as wrong

    def __init__(self, section: QuestionAnsweringSection, tokenizer: Tokenizer, row_length: int):
        """Raises ModelError if the tokenizer puts no token before a pair or between its texts, or if a row has no room for text."""
        if not (tokenizer.prefix and joins_pairs(tokenizer)):
            raise ModelError(
                "question_answering needs a special token before the question, at which the model predicts that there is no answer, and "
                "one after the question, and the tokenizer lacks one of them; use a model with a WordPiece tokenizer, such as BERT's"
            )
        self.section, self.tokenizer, self.row_length = section, tokenizer, row_length
        self.means = section.training_metrics[1:]  # all but the loss, a cross-entropy in nats
        try:
            self._windows = WindowEncoder(tokenizer, row_length, section.doc_stride)
        except ValueError:
            raise no_room(row_length) from None

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on."""
        section = self.section
        about = ("question_answering", section.unanswerable, section.doc_stride, self.tokenizer.fingerprint(), self.row_length)
        return digest(*map(repr, about))

    def encode(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return the example of each question, or the row's error.

        input_ids, segment_ids and `spans` join the arrays of all windows; `spans`: where each token's text begins and ends in the context.
        `sizes` are the windows' numbers of tokens, `ends` the first and the last token of the answer in each window, and `text` is the
        context and the answers, as JSON in UTF-8.
        """
        return self._encoded(rows, [self._answers(row) for row in rows])

    def encode_unlabelled(self, rows: Sequence[Row]) -> list[Encoded | BadRow]:
        """Return what `encode` returns, but without answers."""
        return self._encoded(rows, [()] * len(rows))

    def collate(self, rows: ExampleBatch) -> Batch:
        """Return the windows of all questions, C in all, padded on the right; labels (C, 2): the first and the last token of the answer.

        `extras`: each window's `row` (C,), `spans`, where each token is in the context (C, T, 2), and the `text` of each row (B, bytes).
        """
        examples = rows.single()
        bounds = [np.cumsum(example["sizes"])[:-1] for example in examples]

        def windows(name: str, values: int = 1) -> list[Any]:
            """Split an array with `values` values per token into an array for each window."""
            return [part for example, bound in zip(examples, bounds, strict=True) for part in np.split(example[name], bound * values)]

        sequences = windows("input_ids")
        segments = pad(windows("segment_ids"), 0)
        return Batch(
            pad(sequences, self.tokenizer.pad_id or 0),
            torch.from_numpy(np.concatenate([example["ends"] for example in examples]).astype(np.int64).reshape(-1, 2)),
            padding_mask=padding_mask(sequences),
            segment_ids=segments if bool(segments.any()) else None,
            extras={
                "row": torch.cat([torch.full((len(example["sizes"]),), number) for number, example in enumerate(examples)]),
                "spans": pad(windows("spans", 2), -1).reshape(len(sequences), -1, 2),
                "text": pad([example["text"] for example in examples], ord(" ")).to(torch.uint8),
            },
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of windows."""
        return {"spans": len(batch.labels)}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the windows' losses."""
        return {"spans": _losses(_logits(model, batch), batch.labels).sum()}

    def predict(self, model: Transformer, batch: Batch) -> Iterator[RowResult]:
        """Yield the result of each question: its loss and scores, and the best answer over all windows, with its start in the context."""
        logits = _logits(model, batch, _FORWARD_WINDOWS)
        losses = _losses(logits, batch.labels).cpu().double()
        for number, (context, answers, spans) in enumerate(self._ranked(logits, batch)):
            window_losses = losses[batch.extras["row"].cpu() == number]
            text, probability, start = _best(context, spans)
            scores = _score_sums(*answer_scores(text, answers), has=bool(answers))
            sums = {"spans": Sum(float(window_losses.sum()), len(window_losses)), **scores}
            yield RowResult(sums, {"answers": answers, "predicted": text, "probability": probability, "answer_start": start})

    def wrong(self, row: Row) -> RowResult:
        """Return the result of a row that cannot be encoded: an empty text, which counts as wrong even if the question has no answer."""
        answers = [answer["text"] for answer in row.values["answers"]]
        return RowResult(_score_sums(0.0, 0.0, has=bool(answers)), {"answers": answers, "predicted": ""})

    def answers(self, model: Transformer, batch: Batch, rows: Sequence[Row], *, all_labels: bool = False) -> Iterator[Answer]:
        """Yield the best answer to each question, which may be empty; `all_labels`: with the probabilities of the best candidates."""
        for context, _, spans in self._ranked(_logits(model, batch, _FORWARD_WINDOWS), batch):
            by_text: dict[str, float] = {}
            for span, probability in zip(spans, _probabilities(spans), strict=True):  # spans with the same text add up
                by_text[context[span.start : span.end]] = by_text.get(context[span.start : span.end], 0.0) + probability
            text, probability, _ = _best(context, spans)
            yield Answer(text, short(probability), {name: short(value) for name, value in by_text.items()} if all_labels else None)

    def legend(self) -> list[str]:
        """Return a sentence for `tfkit inspect` on how a window is shown with its answer, or without one."""
        return ["->answer: a token of the answer, of which the first and the last are predicted; ->no answer: it is not in this window"]

    def _ranked(self, logits: Tensor, batch: Batch) -> Iterator[tuple[str, list[str], list[Span]]]:
        """Yield the context of each row, its right answers, and the model's best spans."""
        candidates = best_spans(logits, batch.extras["spans"], self.section.max_answer_tokens)
        no_answer_scores = (logits[:, 0, 0] + logits[:, 0, 1]).tolist()
        rows = batch.extras["row"].tolist()
        for number, written in enumerate(batch.extras["text"].cpu().numpy()):
            context, answers = json.loads(written.tobytes())
            windows = [window for window, row in enumerate(rows) if row == number]
            no_answer = min(no_answer_scores[window] for window in windows) if self.section.unanswerable else None
            yield context, answers, merge([candidates[window] for window in windows], no_answer)

    def _encoded(self, rows: Sequence[Row], answers: Sequence[Answers | BadRow]) -> list[Encoded | BadRow]:
        encoded = self._windows.encode([(row.values["question"], row.values["context"]) for row in rows])
        triples = zip(rows, encoded, answers, strict=True)
        return [right if isinstance(right, BadRow) else _example(row, windows, right) for row, windows, right in triples]

    def _answers(self, row: Row) -> Answers | BadRow:
        """Return a row's right answers, or its error. An answer without a position gets that of its first occurrence in the context."""
        context: str = row.values["context"]
        answers: Answers = row.values["answers"]
        if texts := [answer["text"] for answer in answers if answer["answer_start"] is None]:
            answers = [{"text": text, "answer_start": context.find(text)} for text in texts if text in context]
            if not answers:
                return BadRow(
                    "an answer that is not in its context",
                    f"{row.place}: the context does not contain the answer {texts[0]!r}; correct the answer, or remove the row",
                )
        for answer in answers:
            text, start = answer["text"], answer["answer_start"]
            if not text.strip():
                return BadRow("an empty answer", f"{row.place}: an answer has no text; correct the row, or remove the answer")
            if start < 0 or context[start : start + len(text)] != text:
                place = context.find(text)
                there = f"there is {context[max(0, start) :][: len(text)]!r}" + (f", and it is at {place:,}" if place >= 0 else "")
                return BadRow(
                    "an answer that is not in its context",
                    f"{row.place}: the answer {text!r} is not in the context at character {start:,} ({there}); correct answer_start",
                )
        if not answers and not self.section.unanswerable:
            return BadRow(
                "no answer",
                f"{row.place}: the question has no answer; if that is meant, set objective.unanswerable: true, else remove the row",
            )
        return answers


def _score_sums(exact: float, f1: float, *, has: bool) -> dict[str, Sum]:
    """Return the Sum of each metric; a metric that leaves the question out has 0 targets. `has`: whether the question has an answer."""
    return {
        "exact_match": Sum(exact, 1),
        "f1": Sum(f1, 1),
        "has_answer_exact_match": Sum(exact * has, int(has)),
        "has_answer_f1": Sum(f1 * has, int(has)),
        "no_answer_exact_match": Sum(exact * (not has), int(not has)),
    }


def _logits(model: Transformer, batch: Batch, at_once: int | None = None) -> Tensor:
    """Return logits (C, T, 2) in float32, -inf at padding, computed for `at_once` windows per forward pass (None: all)."""
    size = at_once or len(batch.labels)
    inputs = batch.inputs()
    parts = [model(**{name: tensor[i : i + size] for name, tensor in inputs.items()}).logits for i in range(0, len(batch.labels), size)]
    logits = torch.cat(parts).float()
    return logits if batch.padding_mask is None else logits.masked_fill(~batch.padding_mask[..., None], -torch.inf)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the losses of each answer's first and last token: (C, T, 2), (C, 2) -> (C,)."""
    return F.cross_entropy(logits, labels, reduction="none").mean(1)


def _best(context: str, spans: Sequence[Span]) -> tuple[str, float, int | None]:
    """Return the text of the best answer, its probability and its position; an empty text for no answer, or if the logits are NaN."""
    if not spans:
        return "", math.nan, None
    best = spans[0]
    return context[best.start : best.end], _probabilities(spans)[0], None if best[1:] == NO_ANSWER else best.start


def _example(row: Row, encoded: QuestionWindows, answers: Answers) -> Encoded | BadRow:
    """Return the example of a row, with its first answer as the target."""
    windows, truncated = encoded
    context_tokens = sum(span[0] >= 0 for window in windows for span in window.spans)
    for part, count in (("question", windows[0].question_tokens), ("context", context_tokens)):
        if not count:
            return BadRow("no tokens", f"{row.place}: the {part} gives no token; remove the row", lost=True, dropped=True)
    ends = [(0, 0)] * len(windows)
    if answers:
        start, text = answers[0]["answer_start"], answers[0]["text"]
        marked = _ends(windows, start, start + len(text))
        if marked is None:
            return BadRow("no tokens", f"{row.place}: the answer {text!r} gives no token; remove the answer, or the row")
        ends, truncated = marked, truncated or not any(map(any, marked))  # an answer longer than the overlap may be whole in no window
    text = json.dumps([row.values["context"], [answer["text"] for answer in answers]], ensure_ascii=False)
    arrays: dict[str, Sequence[int] | NDArray[Any]] = {
        "input_ids": [token for window in windows for token in window.ids],
        "segment_ids": np.array([segment for window in windows for segment in window.segments], np.uint8),
        "spans": [character for window in windows for span in window.spans for character in span],
        "sizes": [len(window.ids) for window in windows],
        "ends": [token for pair in ends for token in pair],
        "text": np.frombuffer(text.encode(), np.uint8),
    }
    return Encoded(arrays, sum(len(window.ids) for window in windows), truncated)


def _ends(windows: Sequence[Window], start: int, end: int) -> list[tuple[int, int]] | None:
    """Return an answer's first and last token in each window, (0, 0) if the window lacks a part of it; None if the answer has no tokens."""
    tokens = [[place for place, (first, last) in enumerate(window.spans) if first < end and last > start] for window in windows]
    covered = [(window.spans[places[0]][0], window.spans[places[-1]][1]) for window, places in zip(windows, tokens, strict=True) if places]
    if not covered:
        return None
    whole = min(first for first, _ in covered), max(last for _, last in covered)
    pairs = zip(windows, tokens, strict=True)
    return [
        (places[0], places[-1]) if places and (window.spans[places[0]][0], window.spans[places[-1]][1]) == whole else (0, 0)
        for window, places in pairs
    ]


def best_spans(logits: Tensor, spans: Tensor, longest: int) -> list[list[Span]]:
    """Return the best spans of at most `longest` tokens in each of C windows, at most 20, best first.

    `logits` (C, T, 2): the logits of each token as the first and as the last token of the answer; `spans` (C, T, 2): where the characters
    of each token begin and end in the context, -1 for tokens outside of it.
    """
    inside = spans[..., 0] >= 0
    starts, ends = (logits[..., side].masked_fill(~inside, -torch.inf) for side in (0, 1))  # (C, T)
    length = starts.shape[1]
    most = min(longest, length)
    # scores[c, n, t]: the score of the span from token t to token t + n of window c
    scores = torch.stack([F.pad(starts[:, : length - n] + ends[:, n:], (0, n), value=-torch.inf) for n in range(most)], dim=1)
    best, places = scores.flatten(1).topk(min(_BEST, most * length))
    offsets, firsts = (places // length).tolist(), (places % length).tolist()
    ranked = []
    for window, values in enumerate(best.tolist()):
        of_tokens = spans[window].tolist()
        candidates = zip(values, firsts[window], offsets[window], strict=True)
        ranked.append([Span(value, of_tokens[t][0], of_tokens[t + n][1]) for value, t, n in candidates if value > -torch.inf])
    return ranked


def merge(windows: Sequence[Sequence[Span]], no_answer: float | None) -> list[Span]:
    """Return the best spans over all windows of a question, at most 20, best first; equal spans get the highest of their scores.

    `no_answer`: the score of giving no answer, which ranks after a span with an equal score; None: every question has an answer.
    """
    best: dict[tuple[int, int], float] = {}
    for score, start, end in (span for window in windows for span in window):
        best[start, end] = max(score, best.get((start, end), score))
    ranked = sorted((Span(score, *part) for part, score in best.items()), key=lambda span: (-span.score, span.start, span.end))[:_BEST]
    if no_answer is None:
        return ranked
    return sorted([*ranked, Span(no_answer, *NO_ANSWER)], key=lambda span: -span.score)


def _probabilities(spans: Sequence[Span]) -> list[float]:
    """Return the probability of each span among these spans: the softmax of their scores."""
    return torch.tensor([span.score for span in spans], dtype=torch.float64).softmax(0).tolist()

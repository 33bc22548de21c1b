"""The log-probability of a continuation given its context, for minimal pairs and multiple choice by likelihood.

Text is split as in lm-evaluation-harness: spaces at the end of a context belong to the continuation. For a decoder-only model, context and
continuation are encoded together, and the ids after the first n are the continuation, where n is the number of ids of the context alone.
If one token spans the end of the context and the beginning of the continuation, the harness gives the model the ids of the context encoded
alone; here the model reads the ids of the whole text.

    ids        0 1 2 3 4 5 6        a context of 4 ids, a continuation of 3
    read       0 1 2 3 4 5
    scored             4 5 6
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from tfkit.generation.complete import check_vocabulary
from tfkit.generation.inference import inference
from tfkit.model.head import vocabulary_head
from tfkit.model.padding import pad, padding_mask
from tfkit.model.transformer import Transformer
from tfkit.objectives.log_probs import token_scores
from tfkit.parallel.rank_map import UNWATCHED, BatchWork
from tfkit.tokenizer import Tokenizer


class Question(NamedTuple):
    """A context and a continuation; the answer is log P(continuation | context)."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Likelihood:
    """The answer to one question. `greedy`: whether each token of the continuation is the model's likeliest token there."""

    log_prob: float  # in nats, summed over the continuation's tokens
    tokens: int  # the number of tokens of the continuation
    bytes: int  # the number of the continuation's UTF-8 bytes
    greedy: bool
    cut: bool  # whether the ids (in an encoder-decoder: the context's) did not fit the model, so that they were truncated on the left


class Ids(NamedTuple):
    """The ids of a question; those from index `first` on are scored. `source`: the encoder's input; empty for a decoder-only model."""

    ids: list[int]
    first: int
    source: list[int]


class _Window(NamedTuple):
    """A part of a question, with the question's index, for one forward pass: the ids [begin:end], of which [first:end] are scored."""

    question: int
    begin: int
    first: int
    end: int


def encode_questions(tokenizer: Tokenizer, questions: Sequence[Question], start_id: int | None = None) -> list[Ids]:
    """Return the ids of each question. `start_id`: the decoder's start token in an encoder-decoder, whose encoder reads the context.

    In a decoder-only model, the ids begin with the tokenizer's prefix, as in training; with neither prefix nor context, with bos
    or, if there is no bos, with eos. If the tokenizer has none of these, the first token of a continuation without context has no
    probability, and is not scored.
    """
    moved = [_spaces_moved(question) for question in questions]
    if start_id is not None:
        sources = tokenizer.encode_texts([context for context, _ in moved])
        targets = tokenizer.encode_bare([continuation for _, continuation in moved])
        begin = [start_id, *tokenizer.forced_ids]
        return [Ids([*begin, *target.tolist()], len(begin), source or [start_id]) for source, target in zip(sources, targets, strict=True)]
    opening = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    alone = list(tokenizer.prefix) or ([] if opening is None else [opening])  # ids before a continuation without context
    wholes = tokenizer.encode_bare([context + continuation for context, continuation in moved])
    contexts = tokenizer.encode_bare([context for context, _ in moved])
    return [_split(alone, list(tokenizer.prefix), whole.tolist(), len(context)) for whole, context in zip(wholes, contexts, strict=True)]


def score_questions(
    model: Transformer, questions: Sequence[Question], encoded: Sequence[Ids], batch_size: int, work: BatchWork = UNWATCHED
) -> list[Likelihood]:
    """Return the answer to each question. `encoded`: the ids of each question; questions with equal ids are computed once.

    A context that does not fit the model is truncated on the left; a continuation that does not fit is scored in windows, each with as much
    context as fits. The batch size, in windows per forward pass, changes results only by rounding. Raises ModelError if an id is outside
    the model's vocabulary.
    """
    check_vocabulary([[*question.ids, *question.source] for question in encoded], model.config.vocab_size)
    length = model.config.context_length
    numbers: dict[tuple[tuple[int, ...], int, tuple[int, ...]], int] = {}  # the index of each distinct question
    which = [numbers.setdefault((tuple(question.ids), question.first, tuple(question.source)), len(numbers)) for question in encoded]
    distinct = [Ids(list(ids), first, list(source)) for ids, first, source in numbers]
    windows = [window for number, one in enumerate(distinct) for window in _windows(number, one, length)]
    windows.sort(key=lambda window: window.begin - window.end)  # longest first, so that a lack of memory shows in the first batch
    sums, greedy = np.zeros(len(distinct)), np.ones(len(distinct), dtype=bool)
    batches = [windows[begin : begin + batch_size] for begin in range(0, len(windows), batch_size)]
    with inference(model):
        for batch, (log_probs, right) in zip(batches, work.deal(partial(_score, model, distinct), batches), strict=True):
            for window, log_prob, is_likeliest in zip(batch, log_probs, right, strict=True):
                sums[window.question] += log_prob
                greedy[window.question] &= is_likeliest
    return [
        Likelihood(
            float(sums[number]),
            len(ids.ids) - ids.first,
            len(question.continuation.encode()),
            bool(greedy[number]),
            len(ids.source) > length or (not ids.source and len(ids.ids) > length + 1),
        )
        for question, ids, number in zip(questions, encoded, which, strict=True)
    ]


def likelihoods(
    model: Transformer, tokenizer: Tokenizer, questions: Sequence[Question], batch_size: int, *, start_id: int | None = None
) -> list[Likelihood]:
    """Encode the questions (`encode_questions`), and return the answer to each (`score_questions`)."""
    return score_questions(model, questions, encode_questions(tokenizer, questions, start_id), batch_size)


def _spaces_moved(question: Question) -> Question:
    """Move spaces at the end of the context to the beginning of the continuation, where tokenizers expect them."""
    context = question.context.rstrip()
    return Question(context, question.context[len(context) :] + question.continuation)


def _split(alone: list[int], prefix: list[int], whole: list[int], context: int) -> Ids:
    """Return the ids `whole` of a context and its continuation, preceded by `prefix`, or by `alone` if there is no context.

    `context`: how many of the ids belong to the context. At least the last id is scored, unless no other id precedes it.
    """
    context = max(0, min(context, len(whole) - 1))
    opening = prefix if context else alone
    if opening and whole[:1] == opening[-1:]:  # the text itself begins with the last token of the opening
        opening = []
    return Ids(opening + whole, max(len(opening) + context, 1), [])


def _windows(number: int, question: Ids, length: int) -> Iterator[_Window]:
    """Yield lm-evaluation-harness' rolling windows, of at most `length` + 1 ids, since a window's last id is not an input."""
    first, whole = question.first, len(question.ids)
    while first < whole:
        end = min(first + length, whole)
        yield _Window(number, max(0, end - length - 1), first, end)
        first = end


def _score(model: Transformer, questions: Sequence[Ids], windows: Sequence[_Window]) -> tuple[list[float], list[bool]]:
    """Return the sum of the log-probabilities of each window, in float64, and whether all of its scored tokens are the likeliest."""
    device = next(model.parameters()).device
    pieces = [np.array(questions[window.question].ids[window.begin : window.end], np.int32) for window in windows]
    counts = [window.end - window.first for window in windows]
    ids, mask = pad([piece[:-1] for piece in pieces], 0).to(device), padding_mask([piece[:-1] for piece in pieces])  # (B, T)
    mask = None if mask is None else mask.to(device)
    if model.encoder is None:
        hidden = model(ids, padding_mask=mask).hidden  # (B, T, D); padding is on the right, where nothing attends to it
    else:
        sources = [np.array(questions[window.question].source[-model.config.context_length :], np.int32) for window in windows]
        source_mask = padding_mask(sources)
        hidden = model(
            pad(sources, 0).to(device),
            padding_mask=None if source_mask is None else source_mask.to(device),
            decoder_input_ids=ids,
            decoder_padding_mask=mask,
        ).hidden
    ends = [len(piece) - 1 for piece in pieces]
    states = torch.cat([hidden[row, end - count : end] for row, (end, count) in enumerate(zip(ends, counts, strict=True))])  # (N, D)
    labels = torch.cat([torch.from_numpy(piece[-count:].astype(np.int64)) for piece, count in zip(pieces, counts, strict=True)])
    scores = token_scores(vocabulary_head(model.head), states, labels.to(device))
    log_probs, right = scores.log_probs.cpu().double(), scores.right.cpu()
    return [float(values.sum()) for values in log_probs.split(counts)], [bool(values.all()) for values in right.split(counts)]

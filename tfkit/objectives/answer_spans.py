"""The best answer spans of each question, from the logits of its windows, which are overlapping parts of its context."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BEST = 20  # the most candidate spans; their probabilities sum up to 1, as in BERT's run_squad.py


class Span(NamedTuple):
    """A span of characters in a context, empty for no answer, and its score: the sum of the logits of its first and its last token."""

    score: float
    start: int
    end: int


NO_ANSWER = (0, 0)


def best_spans(logits: Tensor, spans: Tensor, longest: int) -> list[list[Span]]:
    """Return the best spans of at most `longest` tokens in each of C windows, best first.

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
    """Return the best spans over all windows of a question, best first; equal spans get the highest of their scores.

    `no_answer`: the score of giving no answer, which ranks after a span with an equal score; None: every question has an answer.
    """
    best: dict[tuple[int, int], float] = {}
    for score, start, end in (span for window in windows for span in window):
        best[start, end] = max(score, best.get((start, end), score))
    ranked = sorted((Span(score, *part) for part, score in best.items()), key=lambda span: (-span.score, span.start, span.end))[:_BEST]
    if no_answer is None:
        return ranked
    return sorted([*ranked, Span(no_answer, *NO_ANSWER)], key=lambda span: -span.score)


def probabilities(spans: Sequence[Span]) -> list[float]:
    """Return the probability of each span among these spans: the softmax of their scores."""
    return torch.tensor([span.score for span in spans], dtype=torch.float64).softmax(0).tolist()

"""Selection of the next token from logits, (..., V) or (B, V), in which excluded tokens have the logit -inf. The steps have the results and
the order of transformers' logits processors: settings against repetition, a checkpoint's constraints, temperature, top-k, top-p, min-p.
Greedy decoding and beam search use only the first two steps.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tfkit.recipe.schema.output_sections import GenerationSection

_EXCLUDED = float("-inf")
_LOW_TEMPERATURE = 1e-6  # below this temperature, tokens whose logits are 1e-4 or more below the largest have nearly no probability


def penalize_repetition(scores: Tensor, texts: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Multiply the score of each token that occurs in its row's text by the penalty if the score is negative, else divide it by the
    penalty. `scores`: (B, V).

    This is transformers' RepetitionPenaltyLogitsProcessor; for positive scores, it is also the penalty of CTRL (arXiv 1909.05858).
    """
    scores = scores.clone()
    for row, text in zip(scores, texts, strict=True):
        seen = torch.tensor(sorted(set(text)), device=scores.device)
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return scores


def exclude_repeated_ngrams(scores: Tensor, texts: Sequence[Sequence[int]], n: int) -> Tensor:
    """Exclude each token that would repeat an n-gram of its row's text (transformers' NoRepeatNGramLogitsProcessor). `scores`: (B, V)."""
    scores = scores.clone()
    for row, text in zip(scores, texts, strict=True):
        end = list(text[len(text) - (n - 1) :]) if len(text) >= n - 1 else None
        repeats = [text[i + n - 1] for i in range(len(text) - n + 1) if list(text[i : i + n - 1]) == end]
        row[repeats] = _EXCLUDED
    return scores


def without_repetition(scores: Tensor, texts: Iterable[Sequence[int]], settings: GenerationSection) -> Tensor:
    """Apply the settings against repetition to logits or log-probabilities (B, V).

    `texts`: the ids of each row so far; iterated only if a setting against repetition has an effect.
    """
    if settings.repetition_penalty == 1 and settings.no_repeat_ngram is None:
        return scores
    texts = list(texts)
    if settings.repetition_penalty != 1:
        scores = penalize_repetition(scores, texts, settings.repetition_penalty)
    if settings.no_repeat_ngram is not None:
        scores = exclude_repeated_ngrams(scores, texts, settings.no_repeat_ngram)
    return scores


class UnfinishedText(NamedTuple):
    """An unfinished text: the decoder's first ids (such as the prompt), the generated ids, and the largest number of generated ids."""

    text: Sequence[int]
    ids: Sequence[int]
    limit: int


@dataclass(frozen=True)
class Constraints:
    """A checkpoint's constraints on texts. `min_length` and `max_length` count all ids of the decoder, with the prompt or start token."""

    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of ids that are not generated, unless forced; one that is only eos is ignored
    suppressed: tuple[int, ...] = ()  # ids that are never generated
    suppressed_first: tuple[int, ...] = ()  # ids excluded as the first new token, or as the second if `forced_first` applies
    forced_first: int | None = None  # the first new token if the decoder's text has a single id, such as the start token
    forced_last: tuple[int, ...] = ()  # alternatives for the last token of a text that reaches its limit
    min_length: int = 0
    min_new_tokens: int = 0
    max_length: int | None = None

    def limit(self, length: int, limit: int) -> int:
        """Return the largest number of new tokens, at least 1, after a text of `length` ids. `limit`: the number that settings and context
        allow.
        """
        return limit if self.max_length is None else max(1, min(limit, self.max_length - length))

    def apply(self, scores: Tensor, rows: Iterable[UnfinishedText], eos_ids: Collection[int]) -> Tensor:
        """Return `scores` (B, V), with -inf at excluded tokens. `rows`: iterated only if a constraint other than `max_length` is set."""
        if self == Constraints(max_length=self.max_length):
            return scores
        scores = scores.clone()
        for row, unfinished in zip(scores, rows, strict=True):
            self._apply(row, unfinished, list(eos_ids))
        return scores

    def _apply(self, row: Tensor, unfinished: UnfinishedText, ends: list[int]) -> None:
        generated, length = len(unfinished.ids), len(unfinished.text) + len(unfinished.ids)
        for *beginning, last in self.bad_words:
            tail = [*unfinished.text, *unfinished.ids][-len(beginning) :] if beginning else []
            if beginning == tail and (beginning or last not in ends):  # the word would be complete; like transformers, ignore one eos alone
                row[last] = _EXCLUDED
        if length < self.min_length or generated < self.min_new_tokens:
            row[ends] = _EXCLUDED
        if length == 1 and self.forced_first is not None:
            _force(row, [self.forced_first])
        if generated == unfinished.limit - 1 and self.forced_last:
            _force(row, list(self.forced_last))
        row[list(self.suppressed)] = _EXCLUDED
        forces_first = self.forced_first is not None and len(unfinished.text) == 1
        if generated == int(forces_first):
            row[list(self.suppressed_first)] = _EXCLUDED


def _force(row: Tensor, tokens: list[int]) -> None:
    row.fill_(_EXCLUDED)
    row[torch.tensor(tokens, device=row.device)] = 0.0


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Exclude all but the k likeliest tokens; tokens as likely as the k-th are kept (transformers' TopKLogitsWarper)."""
    threshold = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < threshold, _EXCLUDED)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with a total probability of at least p, and at least one token.

    Nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751); transformers' TopPLogitsWarper.
    """
    ascending, order = logits.sort(dim=-1)
    # The cumulative sum is computed on the CPU, because on a GPU its order, and thus its last bits, may differ from call to call.
    tail = (ascending.softmax(dim=-1).cpu().cumsum(dim=-1) <= 1 - p).to(logits.device)  # (..., V)
    tail[..., -1] = False
    return logits.masked_fill(tail.scatter(-1, order, tail), _EXCLUDED)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Exclude tokens with less than p times the likeliest token's probability (Nguyen et al. 2024, arXiv 2407.01082; transformers'
    MinPLogitsWarper).
    """
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), _EXCLUDED)


def probabilities(logits: Tensor, settings: GenerationSection) -> Tensor:
    """Return the probabilities to sample from, float32 (..., V). The temperature must be above 0; 0 is greedy decoding."""
    logits = logits.float()
    if settings.temperature < _LOW_TEMPERATURE:
        logits = logits - logits.amax(dim=-1, keepdim=True)  # otherwise the division may overflow, and the softmax of infinities is NaN
    logits = logits / max(settings.temperature, torch.finfo(logits.dtype).tiny)
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    if settings.min_p > 0:
        logits = keep_min_p(logits, settings.min_p)
    return logits.softmax(dim=-1)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token for each row: the first at which the cumulative sum of the row's probabilities (B, V) exceeds the row's uniform number
    in [0, 1) (`uniforms`, (B,)). Return the tokens (B,), on the CPU.

    As each row has its own uniform number, its token for given probabilities depends neither on other rows nor on the device.
    """
    cumulative = probabilities.cpu().double().cumsum(dim=-1)  # (B, V); not every device has float64 or a fixed order of sums
    limits = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]  # even after rounding less than the last sum, so a token is always found
    return torch.searchsorted(cumulative, limits, right=True).squeeze(-1)

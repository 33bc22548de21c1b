"""Tokens that a checkpoint excludes or forces, whatever the settings: bad words, suppressed and forced tokens, a minimum length.

The constraints compute the same as transformers' logits processors of these names, in the same order; they are applied after the processors
against repetition.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_EXCLUDED = float("-inf")


class UnfinishedText(NamedTuple):
    """An unfinished text: the decoder's first ids (such as the prompt), the generated ids, and the largest number of generated ids."""

    text: Sequence[int]
    ids: Sequence[int]
    limit: int


@dataclass(frozen=True)
class Constraints:
    """A checkpoint's constraints. `min_length` and `max_length` count all ids of the decoder, including the prompt or the start token."""

    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of ids that never appear; one that is only eos is ignored
    suppressed: tuple[int, ...] = ()  # ids that never appear
    suppressed_first: tuple[int, ...] = ()  # ids excluded as the first new token; if that is forced, as the second
    forced_first: int | None = None  # the first new token if the decoder has one id, such as the start token
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
        """Return the scores (B, V) of the next tokens, with -inf at excluded ones. `rows` is iterated only if there are constraints."""
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
            if beginning == tail and (beginning or last not in ends):  # like transformers, ignore a bad word that is one eos
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

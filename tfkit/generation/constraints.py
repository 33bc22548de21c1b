"""Tokens that a checkpoint excludes or forces, whatever the settings: bad words, suppressed and forced tokens, a shortest length.

All of it is as in transformers' processors of the same names, in their order, after those against repetition.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_EXCLUDED = float("-inf")


class Progress(NamedTuple):
    """An unfinished text: the decoder's first ids (such as the prompt), the ids generated, and the largest number of them."""

    text: Sequence[int]
    ids: Sequence[int]
    limit: int


@dataclass(frozen=True)
class Constraints:
    """A checkpoint's constraints. `min_length` and `max_length` count all ids of the decoder: its prompt or start token, too."""

    bad_words: tuple[tuple[int, ...], ...] = ()  # sequences of ids that never appear
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()  # as the first new token
    forced_first: int | None = None  # after a text of one token: an encoder-decoder's first new token
    forced_last: tuple[int, ...] = ()  # one of these is the last token of a text that reaches its limit
    min_length: int = 0
    min_new_tokens: int = 0
    max_length: int | None = None

    def limit(self, length: int, limit: int) -> int:
        """Return the largest number of new tokens after a text of `length`; at least 1. `limit`: that of the settings and the context."""
        return limit if self.max_length is None else max(1, min(limit, self.max_length - length))

    def apply(self, scores: Tensor, rows: Iterable[Progress], eos_ids: Collection[int]) -> Tensor:
        """Return the scores (B, V) of the next tokens, excluded ones at -inf. `rows` is not iterated if nothing is excluded."""
        if self in (_FREE, Constraints(max_length=self.max_length)):
            return scores
        scores = scores.clone()
        for row, progress in zip(scores, rows, strict=True):
            self._apply(row, progress, list(eos_ids))
        return scores

    def _apply(self, row: Tensor, progress: Progress, ends: list[int]) -> None:
        """Change the scores (V,) of one row."""
        made, length = len(progress.ids), len(progress.text) + len(progress.ids)
        row[self._completed(progress, ends)] = _EXCLUDED
        if length < self.min_length or made < self.min_new_tokens:
            row[ends] = _EXCLUDED
        if length == 1 and self.forced_first is not None:
            _force(row, [self.forced_first])
        if made == progress.limit - 1 and self.forced_last:
            _force(row, list(self.forced_last))
        row[list(self.suppressed)] = _EXCLUDED
        forces = self.forced_first is not None and len(progress.text) == 1
        if made == int(forces):
            row[list(self.suppressed_first)] = _EXCLUDED

    def _completed(self, progress: Progress, ends: list[int]) -> list[int]:
        """Return the tokens that would complete a bad word."""
        found = []
        for word in self.bad_words:
            *before, last = word
            tail = [*progress.text, *progress.ids][-len(before) :] if before else []
            if before == tail and not (not before and last in ends):  # an eos alone is no bad word
                found.append(last)
        return found


_FREE = Constraints()


def _force(row: Tensor, tokens: list[int]) -> None:
    row.fill_(_EXCLUDED)
    row[torch.tensor(tokens, device=row.device)] = 0.0

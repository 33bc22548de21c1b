"""Beam search: an approximate search for the likeliest complete text, without sampling.

Each step extends every beam (an unfinished text) by every token, and keeps the `num_beams` likeliest unfinished texts:

    a             -> a b, a c
    a b, a c      -> a c d, a b e        (or two from one beam)      a b <eos> is complete: it is scored and stored

Complete texts are ranked by their log-probability divided by a function of their length, since short texts would win otherwise. The
function is that of transformers' generate(num_beams=...) or, alternatively, GNMT's (Wu et al. 2016, arXiv 1609.08144, equation 14).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tfkit.generation.batch import GenerationBatch
from tfkit.generation.next_token import Constraints, UnfinishedText, without_repetition
from tfkit.recipe.schema.output_sections import GenerationSection

Ending = Literal["stop", "length"]
_IMPOSSIBLE = float("-inf")


@dataclass(frozen=True)
class _Beam:
    """An unfinished text: its generated ids, and their log-probability after the prompt."""

    ids: list[int]
    log_probability: float
    parent: int  # the index of the beam, among those of the last step, that it extends


@dataclass(frozen=True)
class CompleteText:
    """The generated ids of a complete text, without the eos that ended it, and the score by which it is ranked."""

    ids: list[int]
    score: float
    ending: Ending


class BeamSearch:
    """The search for the continuation of one prompt. `ended(ids)`: whether a text is complete without eos, as after a stop string."""

    def __init__(
        self,
        text: Sequence[int],
        limit: int,
        settings: GenerationSection,
        eos_ids: Collection[int],
        ended: Callable[[list[int]], bool] | None = None,
    ):
        self.text, self.limit, self.settings, self.eos_ids, self.ended = list(text), limit, settings, eos_ids, ended
        self.running = [_Beam([], 0.0, 0)]
        self.completed: list[CompleteText] = []  # best first
        self.done = False

    @property
    def texts(self) -> list[list[int]]:
        """The ids of each beam, the prompt included."""
        return [self.text + beam.ids for beam in self.running]

    @property
    def best(self) -> list[int]:
        """The generated ids of the best complete text so far, or of the likeliest beam if no text is complete."""
        return self.completed[0].ids if self.completed else self.running[0].ids

    def extend(self, candidates: Iterable[tuple[float, int, int]]) -> None:
        """Extend the beams by candidates (log-probability of the extended text, index of the beam, token), likeliest first.

        There must be enough candidates for `num_beams` unfinished texts, even if each beam ends at each eos. As in transformers, only the
        first `num_beams` candidates can complete a text.
        """
        beams, completed, running = self.settings.num_beams, self.completed, []
        for rank, (log_probability, parent, token) in enumerate(candidates):
            if log_probability == _IMPOSSIBLE:
                break
            ids = [*self.running[parent].ids, token]
            stops = token in self.eos_ids or (self.ended is not None and self.ended(ids))
            ending: Ending | None = "stop" if stops else "length" if len(ids) == self.limit else None
            if ending is None:
                running.append(_Beam(ids, log_probability, parent))
            elif rank < beams:
                kept = ids[:-1] if token in self.eos_ids else ids
                completed = [*completed, CompleteText(kept, log_probability / self._divisor(len(ids)), ending)]
        self.completed = sorted(completed, key=lambda text: -text.score)[:beams]
        self.done = not running or self._is_settled(running[0])
        if not self.done:
            running += [_Beam(running[0].ids, _IMPOSSIBLE, running[0].parent)] * (beams - len(running))
            self.running = running[:beams]

    def _is_settled(self, best: _Beam) -> bool:
        """Whether the search may end, according to early_stopping. `best`: the likeliest beam."""
        if len(self.completed) < self.settings.num_beams:
            return False
        if self.settings.early_stopping == "full":
            return True
        grows = self.settings.early_stopping == "never" and self.settings.length_penalty > 0
        length = self.limit if grows else len(best.ids)  # `grows`: `best` scores higher the longer it is; so take its largest length
        return best.log_probability / self._divisor(length) <= self.completed[-1].score

    def _divisor(self, length: int) -> float:
        base = (5 + length) / 6 if self.settings.length_law == "gnmt" else length
        return float(base**self.settings.length_penalty)


def search(
    batch: GenerationBatch,
    logits: Tensor,
    searches: Sequence[BeamSearch],
    settings: GenerationSection,
    constraints: Constraints,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Run all searches until they end or `should_stop()` is true. `batch` has a row for each search, and `logits` (B, V) are those of
    the rows' first new tokens.
    """
    running = list(searches)
    while True:
        rows_per_search = len(logits) // len(running)
        _extend(running, logits, settings, constraints)
        unfinished = [(i, one) for i, one in enumerate(running) if not one.done]
        if not unfinished or (should_stop is not None and should_stop()):
            return
        rows = [i * rows_per_search + beam.parent for i, one in unfinished for beam in one.running]
        if len(unfinished) == len(running) and rows_per_search == settings.num_beams:
            batch.reorder_rows(rows)
        else:  # in the first step, each prompt's row becomes `num_beams` rows; later, a search has ended
            batch = GenerationBatch.join(
                [(batch, rows)], max(one.limit - len(one.running[0].ids) for _, one in unfinished), settings.num_beams
            )
        running = [one for _, one in unfinished]
        batch.append([beam.ids[-1] for one in running for beam in one.running], [False] * len(rows))
        logits = batch.next_logits()


def _extend(searches: Sequence[BeamSearch], logits: Tensor, settings: GenerationSection, constraints: Constraints) -> None:
    """Extend the beams of all searches. `logits`, (B, V): those after each beam's last token, with equally many rows for each search."""
    vocabulary = logits.shape[-1]
    scores = logits.float().log_softmax(dim=-1)
    scores = without_repetition(scores, (text for one in searches for text in one.texts), settings)
    unfinished = (UnfinishedText(one.text, beam.ids, one.limit) for one in searches for beam in one.running)
    scores = constraints.apply(scores, unfinished, searches[0].eos_ids)
    log_probabilities = torch.tensor([beam.log_probability for one in searches for beam in one.running], device=scores.device)
    scores = (scores + log_probabilities[:, None]).unflatten(0, (len(searches), -1)).flatten(1)  # (searches, rows of a search * V)
    count = max(2, 1 + len(searches[0].eos_ids)) * settings.num_beams  # enough candidates even if all beams end at every eos
    best = scores.topk(min(count, scores.shape[1]), dim=-1)
    for one, values, indices in zip(searches, best.values.tolist(), best.indices.tolist(), strict=True):
        one.extend((value, index // vocabulary, index % vocabulary) for value, index in zip(values, indices, strict=True))

"""Baselines of preferences, which need no Transformer: the longer completion, and a logistic regression over words."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tfkit.data.columns.rows import Row
from tfkit.objectives.conversation_texts import bare_text
from tfkit.objectives.metrics import Numbers
from tfkit.objectives.metrics.preferences import rate_right
from tfkit.objectives.preference_rows import Preference, read_preference

MOST_PAIRS = 20_000  # that are learned from
MOST_WORDS = 20_000  # the most frequent ones of these
_STEPS, _RATE, _DECAY = 200, 0.05, 1e-3  # of Adam over all pairs at once, and the weight of the squares of the weights
_WORD = re.compile(r"\w+")


class Pair(NamedTuple):
    """The texts of two completions."""

    better: str
    worse: str


def preference_baselines(train: Iterable[Row] | None, scored: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return the accuracy, over pairs, of the longer completion, or of the shorter where that is better in the training rows, and of a
    Bradley-Terry model over the words that one completion has and the other has not. `train`: None where the rows are unknown.
    """
    pairs = list(_pairs(scored))
    if not pairs:
        return {}
    longer = np.array([len(one.better) - len(one.worse) for one in pairs], np.float64)
    if train is None:
        right = float(rate_right(longer).mean())
        return {"length_of_scored_rows": {"accuracy": max(right, 1 - right)}}
    known = list(islice(_pairs(train), MOST_PAIRS))
    direction = 1.0 if float(np.mean(rate_right(np.array([len(one.better) - len(one.worse) for one in known])))) >= 0.5 else -1.0
    return {
        "length": {"accuracy": float(rate_right(direction * longer).mean())},
        "bag_of_words": {"accuracy": float(rate_right(_by_words(known, pairs)).mean())},
    }


def _pairs(rows: Iterable[Row]) -> Iterator[Pair]:
    """Yield all pairs of the rows that say something."""
    for row in rows:
        found = read_preference(row)
        if isinstance(found, Preference):
            texts = [bare_text(one) for one in found.completions]
            for i, rank in enumerate(found.ranks):
                yield from (Pair(texts[i], texts[j]) for j, other in enumerate(found.ranks) if rank < other)


def _by_words(known: Sequence[Pair], scored: Sequence[Pair]) -> Numbers:
    """Return the margins of pairs by the weights of words that the known pairs give: (P,)."""
    words = [(_words(one.better), _words(one.worse)) for one in known]
    counts = Counter(word for better, worse in words for word in better ^ worse)
    places = {word: place for place, (word, _) in enumerate(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:MOST_WORDS])}
    if not places:
        return np.zeros(len(scored))
    features = Features.of(words, places)
    weights = torch.zeros(len(places), requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=_RATE)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-features.margins(weights)).mean() + _DECAY * weights.square().sum()
        loss.backward()
        optimizer.step()
    others = Features.of([(_words(one.better), _words(one.worse)) for one in scored], places)
    found: Numbers = others.margins(weights).detach().double().numpy()
    return found


class Features(NamedTuple):
    """For each pair 1 at the words of the better completion alone, and -1 at those of the worse one alone: a sparse matrix (P, words)."""

    pairs: int
    rows: Tensor  # (entries,)
    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, pairs: Sequence[tuple[set[str], set[str]]], places: dict[str, int]) -> "Features":
        """Return the features of pairs of sets of words; `places`: the columns of the words that are known."""
        entries = [
            (row, places[word], 1.0 if word in better else -1.0)
            for row, (better, worse) in enumerate(pairs)
            for word in sorted(better ^ worse)
            if word in places
        ]
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(len(pairs), torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long), torch.tensor(values))

    def margins(self, weights: Tensor) -> Tensor:
        """Return the sum of each pair's weights: (words,) -> (P,)."""
        return torch.zeros(self.pairs).index_add(0, self.rows, self.values * weights[self.columns])


def _words(text: str) -> set[str]:
    return {*_WORD.findall(text.lower())}

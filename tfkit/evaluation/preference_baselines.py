"""Baselines for models of preferences: choosing the longer completion, and a logistic regression over words."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from tfkit.data.columns.rows import Row
from tfkit.objectives.conversation_texts import bare_text
from tfkit.objectives.metrics import Numbers
from tfkit.objectives.preference_rows import Preference, rate_right, read_preference

MAX_PAIRS = 20_000  # the largest number of training pairs that are read
MAX_WORDS = 20_000  # the largest number of words that are features: those in which most training pairs differ
_STEPS, _LR, _L2 = 200, 0.05, 1e-3  # steps and learning rate of full-batch Adam, and the factor of the loss's L2 penalty
_WORD = re.compile(r"\w+")


class Pair(NamedTuple):
    """The texts of two completions of a prompt; `better` is the preferred one."""

    better: str
    worse: str


def preference_baselines(train: Iterable[Row] | None, scored: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return the accuracies of two baselines over the pairs of the `scored` rows; {} if there are no pairs.

    The length baseline chooses the longer completion, or the shorter one if most training pairs prefer that one. The other baseline is
    a Bradley-Terry model over the words that only one completion of a pair has. `train`: the training rows; None: they are unknown, and
    there is only the length baseline, in the direction (longer or shorter) with the higher accuracy.
    """
    pairs = list(_pairs(scored))
    if not pairs:
        return {}
    longer = _length_margins(pairs)
    if train is None:
        right = float(rate_right(longer).mean())
        return {"length_of_scored_rows": {"accuracy": max(right, 1 - right)}}
    training_pairs = list(islice(_pairs(train), MAX_PAIRS))
    direction = 1.0 if float(np.mean(rate_right(_length_margins(training_pairs)))) >= 0.5 else -1.0
    return {
        "length": {"accuracy": float(rate_right(direction * longer).mean())},
        "bag_of_words": {"accuracy": float(rate_right(_by_words(training_pairs, pairs)).mean())},
    }


def _length_margins(pairs: Sequence[Pair]) -> Numbers:
    return np.array([len(pair.better) - len(pair.worse) for pair in pairs], np.float64)


def _pairs(rows: Iterable[Row]) -> Iterator[Pair]:
    for row in rows:
        preference = read_preference(row)
        if isinstance(preference, Preference):
            texts = [bare_text(completion) for completion in preference.completions]
            for i, rank in enumerate(preference.ranks):
                yield from (Pair(texts[i], texts[j]) for j, other in enumerate(preference.ranks) if rank < other)


def _by_words(train: Sequence[Pair], scored: Sequence[Pair]) -> Numbers:
    """Train a weight per word on the pairs `train`; return the margins of the pairs `scored` (P,), positive where the better text wins."""
    words = [(_words(pair.better), _words(pair.worse)) for pair in train]
    counts = Counter(word for better, worse in words for word in better ^ worse)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    columns = {word: column for column, (word, _) in enumerate(frequent)}
    if not columns:
        return np.zeros(len(scored))
    features = Features.of(words, columns)
    weights = torch.zeros(len(columns), requires_grad=True)
    mean, square, step = torch.zeros(len(columns)), torch.zeros(len(columns)), torch.zeros(())
    settings: dict[str, Any] = {"lr": _LR, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    for _ in range(_STEPS):
        loss = torch.nn.functional.softplus(-features.margins(weights)).mean() + _L2 * weights.square().sum()
        gradients = torch.autograd.grad(loss, [weights])
        with torch.no_grad():  # Adam as a function, since importing the class Adam imports PyTorch's compiler
            adam([weights], [*gradients], [mean], [square], [], [step], amsgrad=False, maximize=False, **settings)
    scored_features = Features.of([(_words(pair.better), _words(pair.worse)) for pair in scored], columns)
    return scored_features.margins(weights).detach().double().numpy()


class Features(NamedTuple):
    """A sparse matrix (P, words): 1 for a word that only the better completion of a pair has, -1 for one that only the worse one has."""

    pairs: int
    rows: Tensor  # (entries,): the index of each entry's pair
    columns: Tensor  # (entries,)
    values: Tensor  # (entries,)

    @classmethod
    def of(cls, pairs: Sequence[tuple[set[str], set[str]]], columns: dict[str, int]) -> "Features":
        """Return the features of pairs (words of the better completion, words of the worse one). `columns`: the column of each known word;
        other words are ignored.
        """
        entries = [
            (row, columns[word], 1.0 if word in better else -1.0)
            for row, (better, worse) in enumerate(pairs)
            for word in sorted(better ^ worse)
            if word in columns
        ]
        rows, entry_columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(len(pairs), torch.tensor(rows, dtype=torch.long), torch.tensor(entry_columns, dtype=torch.long), torch.tensor(values))

    def margins(self, weights: Tensor) -> Tensor:
        """Return the weighted sum of each pair's features: (words,) -> (P,)."""
        return torch.zeros(self.pairs).index_add(0, self.rows, self.values * weights[self.columns])


def _words(text: str) -> set[str]:
    return {*_WORD.findall(text.lower())}

"""Rules that name what an attention head attends to, by its mean weight on each kind of key, such as the previous or the first token.

Many trained heads attend mostly to one kind of key (Clark et al. 2019, arXiv 1906.04341; Vig and Belinkov 2019, arXiv 1906.04284).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIXED = "mixed"
# The meaning of each kind's score, which is a mean over queries; a query without a key of this kind does not count (see `_targets`).
KINDS = {
    "previous token": "weight of the token before",
    "next token": "weight of the token after",
    "itself": "weight of the token itself",
    "first token": "weight of the first token",
    "last token": "weight of the last token",
    "same token": "weight of other places with the same token",
    "in order": "largest weight, times how steadily its place moves on with the target",
    "spread": "evenness of the weights: 1 if all visible tokens have the same",
    MIXED: "none of these",
}
# The lowest scores that assign a head to a kind: _CLEAR, but _EVEN for "spread", since a few heavier tokens hardly lower evenness.
_CLEAR, _EVEN = 0.5, 0.75


@dataclass(frozen=True)
class HeadPattern:
    """The kind of an attention head (a key of KINDS), and its score, 0 to 1, for each kind that can occur in the text, except `mixed`."""

    layer: int
    head: int
    kind: str
    scores: Mapping[str, float]

    @property
    def place(self) -> tuple[int, int]:
        """The indices of the layer and of the head."""
        return self.layer, self.head


@dataclass(frozen=True)
class KindSummary:
    """How many heads belong to a kind, and the heads with the highest scores for this kind, even if they belong to another kind."""

    kind: str
    count: int
    clearest: Sequence[HeadPattern]


def summarize(patterns: Sequence[HeadPattern], clearest: int) -> list[KindSummary]:
    """Summarize the heads of a map by kind. `clearest`: how many heads are listed for each kind except `mixed`, highest scores first."""

    def best(kind: str) -> list[HeadPattern]:
        return sorted(patterns, key=lambda pattern: -pattern.scores[kind])[:clearest] if kind != MIXED else []

    counts = Counter(pattern.kind for pattern in patterns)
    return [KindSummary(kind, counts[kind], best(kind)) for kind in (*patterns[0].scores, MIXED)]


def head_patterns(
    weights: NDArray[np.float32], visible: NDArray[np.bool_], queries: Sequence[str], keys: Sequence[str], *, cross: bool
) -> list[HeadPattern]:
    """Return each head's pattern. `weights`: (layers, heads, queries, keys); `visible`, the attention mask: (layers, queries, keys)."""
    same = np.array(queries)[:, None] == np.array(keys)[None, :]  # (queries, keys)
    patterns = []
    for layer, (heads, seen) in enumerate(zip(weights, visible, strict=True)):
        targets = _targets(seen, same, cross=cross)
        for head, one in enumerate(heads):
            scores = {kind: _mean_weight(one, target) for kind, target in targets.items()}
            if cross:
                scores["in order"] = _order(one)
            scores["spread"] = _evenness(one, seen)
            patterns.append(HeadPattern(layer, head, _kind(scores), scores))
    return patterns


def _kind(scores: Mapping[str, float]) -> str:
    clearest = max(scores, key=lambda kind: scores[kind] * (kind != "spread"))
    if scores[clearest] >= _CLEAR and clearest != "spread":
        return clearest
    return "spread" if scores["spread"] >= _EVEN else MIXED


def _targets(visible: NDArray[np.bool_], same: NDArray[np.bool_], *, cross: bool) -> dict[str, NDArray[np.bool_]]:
    """Return for each kind a mask (queries, keys), True for visible keys of this kind. A query without such a key has no part in the score.

    Queries near an end of the text are left out of kinds that coincide there: the token before the second one, for instance, is the first.
    """
    count, length = visible.shape
    if cross:
        first, last = np.zeros_like(visible), np.zeros_like(visible)
        first[:, 0], last[:, -1] = True, True
        return {"first token": first & visible, "last token": last & visible, "same token": same & visible}
    rows = np.arange(count)
    to_first, to_last = rows[:, None] > 1, rows[:, None] < count - 2

    def at(distance: int) -> NDArray[np.bool_]:
        return np.eye(count, length, distance, dtype=np.bool_)

    targets = {
        "previous token": at(-1) & to_first,
        "next token": at(1) & to_last,
        "itself": at(0) & (rows[:, None] > 0),
        "first token": (rows[None, :] == 0) & to_first,
        "last token": (rows[None, :] == length - 1) & to_last,
        "same token": same & ~at(0),
    }
    return {kind: shown for kind, target in targets.items() if (shown := target & visible).any()}


def _mean_weight(weights: NDArray[np.float32], target: NDArray[np.bool_]) -> float:
    defined = target.any(1)
    return float((weights * target).sum(1)[defined].mean()) if defined.any() else 0.0


def _evenness(weights: NDArray[np.float32], visible: NDArray[np.bool_]) -> float:
    """Return the entropy of a query's weights, divided by that of equal weights: the mean over queries with several visible keys."""
    seen = visible.sum(1)
    several = seen > 1
    if not several.any():
        return 0.0
    entropy = -(weights * np.log(np.maximum(weights, np.float32(1e-30)))).sum(1)
    return float((entropy[several] / np.log(seen[several])).mean())


def _order(weights: NDArray[np.float32]) -> float:
    """Return the mean of the queries' largest weights, times the correlation of the places of queries and of these weights; at least 0."""
    places = weights.argmax(1)
    if len(places) < 3 or places.min() == places.max():
        return 0.0
    steadiness = float(np.corrcoef(np.arange(len(places)), places)[0, 1])
    return max(0.0, steadiness) * float(weights.max(1).mean())

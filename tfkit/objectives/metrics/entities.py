"""Precision, recall and F1 of the names that tags mark, as in seqeval's default mode: only an exact span and kind counts as right.

B-person begins a name, I-person continues it, O is outside (Ramshaw and Marcus 1995; CoNLL-2003). IOE, where E- ends a name, and IOBES,
where S- is a whole name, are read, too. Invalid sequences are read as in seqeval's default mode.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfkit.objectives.metrics import Numbers, Scores
from tfkit.objectives.metrics.classes import ratios


class Span(NamedTuple):
    """A name and its kind, such as person: the words from index `start` up to, but without, index `end`."""

    start: int
    end: int
    kind: str


def mark_spans(tags: Sequence[str]) -> bool:
    """Whether the tags mark spans, instead of classifying single words."""
    return any(tag.startswith(("B-", "I-", "E-", "S-")) for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans of a sentence, as CoNLL's conlleval does: an I- or E- tag without a span of its kind to continue begins one."""
    marked: set[Span] = set()
    start, last, last_kind = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        ends = last in ("E", "S") or (last in ("B", "I") and letter in ("B", "S", "O"))
        begins = letter in ("B", "S") or (last in ("E", "S", "O") and letter in ("E", "I"))
        if ends or (last not in ("O", ".") and kind != last_kind):
            marked.add(Span(start, place, last_kind))
        if begins or (letter not in ("O", ".") and kind != last_kind):
            start = place
        last, last_kind = letter, kind
    return marked


def entity_metrics(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> Scores:
    """Return a function from sentence weights to `precision`, `recall` and `f1`, given the tags of each sentence; 0 for 0 / 0."""
    pairs = [(spans(right), spans(predicted)) for right, predicted in zip(targets, predictions, strict=True)]
    counts = np.array([(len(right & predicted), len(predicted), len(right)) for right, predicted in pairs], np.float64)  # (N, 3)

    def scores(weights: Numbers) -> dict[str, float]:
        figures = ratios(*(weights @ counts).tolist())
        return {name: figures[name] for name in ("precision", "recall", "f1")}

    return scores


def entity_figures(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return the `ratios` of each kind of name, with the kinds in alphabetical order."""
    hits, predicted, right = Counter[str](), Counter[str](), Counter[str]()
    for target_tags, predicted_tags in zip(targets, predictions, strict=True):
        target_spans, predicted_spans = spans(target_tags), spans(predicted_tags)
        for counts, counted in ((hits, target_spans & predicted_spans), (predicted, predicted_spans), (right, target_spans)):
            counts.update(span.kind for span in counted)
    return {kind: ratios(hits[kind], predicted[kind], right[kind]) for kind in sorted(predicted.keys() | right.keys())}

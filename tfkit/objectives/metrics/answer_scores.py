"""Exact match and F1 of answers, as the official script of SQuAD 2.0 computes them, from 0 to 1 (arXiv 1806.03822)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and repeated white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(predicted: str, references: Sequence[str]) -> tuple[float, float]:
    """Return the exact match and the F1 of an answer, the best over its references; without references an empty text is right."""
    right = [reference for reference in references if normalized(reference)] or [""]
    exact = any(normalized(predicted) == normalized(reference) for reference in right)
    return float(exact), max(_f1(normalized(predicted).split(), normalized(reference).split()) for reference in right)


def _f1(predicted: list[str], right: list[str]) -> float:
    """Return the harmonic mean of precision and recall over words; if a text has no words, 1 if neither has any, else 0."""
    if not predicted or not right:
        return float(predicted == right)
    shared = sum((Counter(predicted) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(right)
    return 2 * precision * recall / (precision + recall)

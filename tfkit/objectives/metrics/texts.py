"""Metrics of texts: BLEU and chrF by sacreBLEU (arXiv 1804.08771), ROUGE by rouge-score; exact match; F1 of short answers.

BLEU and chrF, from 0 to 100, have sacreBLEU's defaults: corpus BLEU with tokenizer 13a (or a named one) and exponential smoothing,
and chrF2. ROUGE is the mean over rows of the F-measure, from 0 to 1, without stemming; of several references, the best-matching one counts.
"""

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tfkit.errors import MachineError, how_to_install
from tfkit.objectives.metrics import Numbers, Scores, together

_Measure = Callable[[list[str], Sequence[Sequence[str]]], Scores]  # texts, references of each text -> their metrics, given row weights
_LIBRARIES = {"bleu": "sacrebleu.metrics", "chrf": "sacrebleu.metrics", "rouge": "rouge_score.rouge_scorer"}
_ROUGE = ("rouge1", "rouge2", "rougeL")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def reference_metrics(
    texts: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str], bleu_tokenize: str = "13a"
) -> Scores:
    """Return a function from row weights to the named metrics of texts against their references, one or more for each text.
    `bleu_tokenize`: the name of a sacreBLEU tokenizer.

    Raises MachineError for a missing library.
    """
    functions: dict[str, _Measure] = {"exact_match": _exact_match, "bleu": partial(_bleu, bleu_tokenize), "chrf": _chrf, "rouge": _rouge}
    return together([functions[name](list(texts), references) for name in dict.fromkeys(metrics)])


def require_libraries(metrics: Sequence[str]) -> None:
    """Raise MachineError if a metric needs a library that is not installed."""
    for name in metrics:
        if name in _LIBRARIES:
            _library(name)


def _exact_match(texts: list[str], references: Sequence[Sequence[str]]) -> Scores:
    """Return a function from row weights to the fraction of texts that, stripped of outer white space, equal one of their references."""
    pairs = zip(texts, references, strict=True)
    right = np.array([text.strip() in {reference.strip() for reference in accepted} for text, accepted in pairs], np.float64)
    return lambda weights: {"exact_match": float(weights @ right / weights.sum())}


def _bleu(tokenize: str, texts: list[str], references: Sequence[Sequence[str]]) -> Scores:
    bleu = _library("bleu").BLEU(tokenize=tokenize, force=True)  # force: no warning about texts that look tokenized
    return _sacrebleu("bleu", bleu, texts, references)


def _chrf(texts: list[str], references: Sequence[Sequence[str]]) -> Scores:
    return _sacrebleu("chrf", _library("chrf").CHRF(), texts, references)


def _sacrebleu(name: str, metric: Any, texts: list[str], references: Sequence[Sequence[str]]) -> Scores:
    """Compute corpus_score in two steps, for which sacreBLEU has no public functions: each row's counts, then the score of their sums."""
    longest = max(map(len, references))
    streams = [[row[k] if k < len(row) else None for row in references] for k in range(longest)]
    counts = np.array(metric._extract_corpus_statistics(texts, streams), np.float64)  # (N, counts)

    def scores(weights: Numbers) -> dict[str, float]:
        return {name: float(metric._compute_score_from_stats([round(count) for count in weights @ counts]).score)}

    return scores


def _rouge(texts: list[str], references: Sequence[Sequence[str]]) -> Scores:
    scorer = _library("rouge").RougeScorer(list(_ROUGE), use_stemmer=False)
    by_row = [scorer.score_multi(list(row), text) for text, row in zip(texts, references, strict=True)]
    values = np.array([[scores[name].fmeasure for name in _ROUGE] for scores in by_row])  # (N, 3)
    return lambda weights: dict(zip(_ROUGE, (weights @ values / weights.sum()).tolist(), strict=True))


def _library(metric: str) -> Any:
    try:
        return importlib.import_module(_LIBRARIES[metric])
    except ImportError:
        raise MachineError(
            f"evaluation.text_metrics: {metric} {how_to_install('eval')}; or name only exact_match, which needs none"
        ) from None


def normalized(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(predicted: str, references: Sequence[str]) -> tuple[float, float]:
    """Return the exact match and the F1 of an answer, from 0 to 1, the best over its references, as in SQuAD 2.0's official script.

    References that are empty once `normalized` are left out; if none is left, an empty answer is right (arXiv 1806.03822).
    """
    right = [reference for reference in references if normalized(reference)] or [""]
    exact = any(normalized(predicted) == normalized(reference) for reference in right)
    return float(exact), max(_f1(normalized(predicted).split(), normalized(reference).split()) for reference in right)


def _f1(predicted: list[str], right: list[str]) -> float:
    """Return the harmonic mean of precision and recall over words; if a text has no words: 1 if the other has none either, else 0."""
    if not predicted or not right:
        return float(predicted == right)
    shared = sum((Counter(predicted) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(right)
    return 2 * precision * recall / (precision + recall)

"""Scores that need no Transformer, for the same rows and metrics: the bar for a model that was trained for labels, tags, numbers or texts.

One pass over the training rows, which counts them and at most 100,000 different words; one over the rows that are scored.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from tfkit.data.columns.forms import by_number
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.order.sentences import split_sentences
from tfkit.evaluation.preference_baselines import preference_baselines
from tfkit.objectives.metrics import Numbers, unit_weights
from tfkit.objectives.metrics.classes import classification_metrics
from tfkit.objectives.metrics.entities import entity_metrics
from tfkit.objectives.metrics.label_sets import label_set_metrics
from tfkit.objectives.metrics.regression import regression_metrics
from tfkit.objectives.metrics.squad import answer_scores
from tfkit.objectives.metrics.tag_spans import mark_spans
from tfkit.objectives.multiple_choice import right_choice
from tfkit.recipe.numbers import read_number
from tfkit.recipe.schema.objective_facts import ObjectiveSection

Baselines = dict[str, dict[str, float]]  # by name: its metrics
MOST_WORDS = 100_000  # different ones that are counted; later ones are unknown
MOST_SETS = 100_000  # rows with sets of labels that are learned from: each label is learned apart
_WORD = re.compile(r"\w+")


class NaiveBayes:
    """Multinomial naive Bayes over words, with one added to every count (McCallum and Nigam 1998), as scikit-learn's."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # of each class
        self._numbers: dict[str, int] = {}  # of the classes
        self._counts: dict[str, Counter[int]] = {}  # of each word, in each class
        self._words: Counter[int] = Counter()  # of all words, in each class
        self._gains: dict[str, tuple[Numbers, Numbers]] = {}

    def learn(self, words: Iterable[str], label: str) -> None:
        """Count the words of a row."""
        self.rows[label] += 1
        number = self._numbers.setdefault(label, len(self._numbers))
        for word in words:
            counts = self._counts.get(word)
            if counts is None:
                if len(self._counts) >= MOST_WORDS:
                    continue
                counts = self._counts[word] = Counter()
            counts[number] += 1
            self._words[number] += 1

    def classify(self, rows: Iterable[Iterable[str]]) -> Iterator[str]:
        """Yield the likeliest class of each row; unknown words count for none. Nothing may be learned afterwards."""
        labels, all_rows = list(self._numbers), self.rows.total()
        prior = np.array([math.log(self.rows[label] / all_rows) for label in labels])  # (classes,)
        word = np.log([self._words[number] + len(self._counts) for number in range(len(labels))]) if self._counts else 0.0
        for words in rows:
            known = [word for word in words if word in self._counts]
            scores = prior - len(known) * word
            for one in known:
                places, gains = self._gain(one)
                scores[places] += gains
            yield labels[int(scores.argmax())]

    def _gain(self, word: str) -> tuple[Numbers, Numbers]:
        """Return the classes that have a word, and the logarithms of its counts with one added."""
        if word not in self._gains:
            counts = self._counts[word]
            self._gains[word] = np.array([*counts.keys()]), np.log1p([*counts.values()])
        return self._gains[word]


def has_baselines(section: ObjectiveSection, text_metrics: Sequence[str]) -> bool:
    """Whether an objective has baselines; one whose answers are texts only if texts are compared."""
    return section.kind in (*_OF_KIND, "multi_label") or (section.kind == "text_to_text" and bool(text_metrics))


def baselines(section: ObjectiveSection, train: Iterable[Row] | None, scored: Iterable[Row], text_metrics: Sequence[str] = ()) -> Baselines:
    """Return the baselines of an objective; none for language models. `train`: None where the training rows are unknown.

    `text_metrics`: how generated texts are compared with those of the rows.
    """
    if not has_baselines(section, text_metrics):
        return {}
    if section.kind == "text_to_text":
        return _source(scored, text_metrics)
    if section.kind == "multi_label":
        return _label_sets(section, train, scored)
    return _number(train, scored) if section.problem_type == "regression" else _OF_KIND[section.kind](train, scored)


def _classes(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent class, and naive Bayes over the words of a text or of each of two texts."""
    rows = list(scored)
    targets = [str(row.values["label"]) for row in rows]
    if train is None:
        return {"most_frequent_class_of_scored_rows": _class_scores(targets, _most(Counter(targets), len(targets)))}
    bayes = NaiveBayes()
    for row in train:
        bayes.learn(_words(row.values), str(row.values["label"]))
    return {
        "most_frequent_class": _class_scores(targets, _most(bayes.rows, len(targets))),
        "naive_bayes": _class_scores(targets, list(bayes.classify(_words(row.values) for row in rows))),
    }


def _label_sets(section: ObjectiveSection, train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent set of labels, and naive Bayes of each label apart, from at most 100,000 rows."""
    rows = list(_with_sets(section, scored))
    known = rows if train is None else list(_with_sets(section, islice(train, MOST_SETS)))
    often = set(_most(Counter("\0".join(sorted(labels)) for _, labels in known), 1)[0].split("\0")) - {""}
    constant = _set_scores([labels for _, labels in rows], [often] * len(rows))
    if train is None:
        return {"most_frequent_labels_of_scored_rows": constant}
    found: list[set[str]] = [set() for _ in rows]
    for label in sorted(set[str]().union(*(labels for _, labels in known))):
        bayes = NaiveBayes()
        for words, labels in known:
            bayes.learn(words, str(label in labels))
        for labels, applies in zip(found, bayes.classify(words for words, _ in rows), strict=True):
            labels |= {label} if applies == "True" else set()
    return {"most_frequent_labels": constant, "naive_bayes": _set_scores([labels for _, labels in rows], found)}


def _tags(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent tag of each word, and for unknown words the most frequent of all."""
    rows = list(_tagged(scored))
    targets = [tags for _, tags in rows]
    if train is None:
        often = _most(Counter(chain(*targets)), 1)[0]
        return {"most_frequent_tag_of_scored_rows": _tag_scores(targets, [[often] * len(tags) for tags in targets])}
    of_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    all_tags: Counter[str] = Counter()
    for words, tags in _tagged(train):
        all_tags.update(tags)
        for word, tag in zip(words, tags, strict=True):
            if word in of_word or len(of_word) < MOST_WORDS:
                of_word[word][tag] += 1
    often = _most(all_tags, 1)[0]
    usual = {word: _most(counts, 1)[0] for word, counts in of_word.items()}
    return {
        "most_frequent_tag": _tag_scores(targets, [[often] * len(tags) for tags in targets]),
        "most_frequent_tag_of_word": _tag_scores(targets, [[usual.get(word, often) for word in words] for words, _ in rows]),
    }


def _number(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the mean: the constant with the least squared error."""
    targets = np.array([*_numbers(scored)])
    name, known = ("mean_of_scored_rows", targets) if train is None else ("mean", np.fromiter(_numbers(train), float))
    return {name: {"rmse": regression_metrics(targets, np.full(len(targets), known.mean()))(unit_weights(len(targets)))["rmse"]}}


def _choices(_: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score chance, and the longest answer."""
    chances, longest = [], []
    for row in scored:
        choices = row.values["choices"]
        right = right_choice(row.place, choices, row.values["label"])
        if not isinstance(right, BadRow):
            chances.append(1 / len(choices))
            longest.append(max(range(len(choices)), key=lambda number: len(choices[number])) == right)
    return {"chance": {"accuracy": float(np.mean(chances))}, "longest_answer": {"accuracy": float(np.mean(longest))}}


def _answers(_: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the sentence of the context that shares the most words with the question, and, where some have none, no answer at all."""
    sentences, nothing, some_have_none = [], [], False
    for row in scored:
        asked, right = set(_WORD.findall(row.values["question"].lower())), [one["text"] for one in row.values["answers"]]
        context = split_sentences(row.values["context"]) or [""]
        best = max(context, key=lambda sentence: len(asked & set(_WORD.findall(sentence.lower()))))
        sentences.append(answer_scores(best, right))
        nothing.append(answer_scores("", right))
        some_have_none |= not right
    found = {"sentence_like_the_question": sentences} | ({"no_answer": nothing} if some_have_none else {})
    return {
        name: dict(zip(("exact_match", "f1"), np.mean(scores, axis=0).tolist(), strict=True)) for name, scores in found.items() if scores
    }


def _source(scored: Iterable[Row], text_metrics: Sequence[str]) -> Baselines:
    """Score the source itself as the generated text."""
    from tfkit.objectives.metrics.texts import reference_metrics

    pairs = [(row.values["source"], right) for row in scored if (right := _references(row.values["target"]))]
    return {"source": reference_metrics([one for one, _ in pairs], [right for _, right in pairs], text_metrics)(unit_weights(len(pairs)))}


_OF_KIND: Mapping[str, Callable[[Iterable[Row] | None, Iterable[Row]], Baselines]] = {
    "classification": _classes,
    "tagging": _tags,
    "multiple_choice": _choices,
    "question_answering": _answers,
    "reward": preference_baselines,
    "dpo": preference_baselines,
}


def _with_sets(section: ObjectiveSection, rows: Iterable[Row]) -> Iterator[tuple[list[str], set[str]]]:
    """Yield the words and the labels of each row."""
    for row in rows:
        found = section.labels_in(row.values["labels"])
        yield list(_words(row.values)), {label for label, applies in found.items() if applies}


def _words(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lower-case words of a text; those of a second one are words of their own."""
    yield from _WORD.findall(values["text"].lower())
    yield from (f"{word} 2" for word in _WORD.findall((values.get("pair") or "").lower()))


def _numbers(rows: Iterable[Row]) -> Iterator[float]:
    values = (by_number(row.values["label"]) for row in rows)
    return (number for value in values if (number := read_number(str(value))) is not None)


def _tagged(rows: Iterable[Row]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words and the tags of the rows that have a tag for each word."""
    for row in rows:
        words, tags = row.values["tokens"], [str(tag) for tag in row.values["tags"]]
        if len(words) == len(tags):
            yield words, tags


def _references(target: str | Sequence[str]) -> list[str]:
    """Return the right answers that have text."""
    return [text for text in ([target] if isinstance(target, str) else target) if text.strip()]


def _most(counts: Counter[str], times: int) -> list[str]:
    """Return the most frequent one, as often as it is wanted; of several the first in the alphabet, whatever the order of the rows."""
    return [min(counts, key=lambda one: (-counts[one], one))] * times


def _class_scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    number = {label: place for place, label in enumerate(sorted({*targets, *predictions}))}
    numbers = (np.array([number[label] for label in labels]) for labels in (targets, predictions))
    scores = classification_metrics(*numbers)(unit_weights(len(targets)))
    return {name: scores[name] for name in ("accuracy", "f1_macro", "matthews")}


def _set_scores(targets: Sequence[set[str]], predictions: Sequence[set[str]]) -> dict[str, float]:
    labels = {label: number for number, label in enumerate(sorted(set[str]().union(*targets, *predictions)))}
    right, found = ([[labels[label] for label in row] for row in side] for side in (targets, predictions))
    exact = float(np.mean([one == other for one, other in zip(targets, predictions, strict=True)]))
    return label_set_metrics(right, found, len(labels))(unit_weights(len(targets))) | {"exact_match": exact}


def _tag_scores(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    entities = entity_metrics(targets, predictions)(unit_weights(len(targets))) if mark_spans([*chain(*targets)]) else {}
    return _class_scores([*chain(*targets)], [*chain(*predictions)]) | entities

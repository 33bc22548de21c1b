"""Baselines without a Transformer for models that predict labels, tags, numbers, answers, preferences or texts. They are scored on the same
rows as the model, by one or more of its metrics.

The scored rows are read once, and so are the training rows, up to MAX_CHARACTERS characters.
"""

import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.store.token_stream import split_sentences
from tfkit.evaluation.preference_baselines import preference_baselines
from tfkit.objectives.metrics import Numbers, unit_weights
from tfkit.objectives.metrics.classes import classification_metrics, label_set_metrics
from tfkit.objectives.metrics.entities import entity_metrics, mark_spans
from tfkit.objectives.metrics.texts import answer_scores, reference_metrics
from tfkit.objectives.multiple_choice import right_choice
from tfkit.objectives.text_regression import label_value, regression_metrics
from tfkit.recipe.schema.objective_facts import ObjectiveSection

Baselines = dict[str, dict[str, float]]  # the metrics of each baseline, by name
MAX_WORDS = 100_000  # maximum number of distinct words that are counted; later ones are treated as unknown
MAX_CHARACTERS = 100_000_000  # maximum number of characters read of training rows, which takes about ten seconds
MAX_LABEL_SETS = 100_000  # maximum number of training rows that are read if rows have sets of labels
MAX_OPERATIONS = 200_000_000  # maximum number of additions, which take some seconds; a naive Bayes that needs more is left out
_WORD = re.compile(r"\w+")


class NaiveBayes:
    """Multinomial naive Bayes over words with Laplace smoothing (McCallum and Nigam 1998), as scikit-learn's."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # the number of rows of each class
        self._numbers: dict[str, int] = {}  # the index of each class
        self._counts: defaultdict[str, Counter[int]] = defaultdict(Counter)  # for each word, its counts by class index
        self._words: Counter[int] = Counter()  # the number of counted words by class index
        self._gains: dict[str, tuple[Numbers, Numbers]] = {}

    def learn(self, words: Iterable[str], label: str) -> None:
        """Count a row of the class `label`, and its words."""
        self.rows[label] += 1
        number = self._numbers.setdefault(label, len(self._numbers))
        for word in words:
            if word in self._counts or len(self._counts) < MAX_WORDS:
                self._counts[word][number] += 1
                self._words[number] += 1

    def classify(self, rows: Iterable[Iterable[str]]) -> Iterator[str]:
        """Yield the likeliest class of each row, ignoring unknown words. `learn` must not be called afterwards."""
        labels, all_rows = list(self._numbers), self.rows.total()
        prior = np.array([math.log(self.rows[label] / all_rows) for label in labels])  # (classes,)
        normalizer = np.log([self._words[number] + len(self._counts) for number in range(len(labels))]) if self._counts else 0.0
        for words in rows:
            known = [word for word in words if word in self._counts]
            scores = prior - len(known) * normalizer
            for word in known:
                numbers, gains = self._gain(word)
                scores[numbers] += gains
            yield labels[int(scores.argmax())]

    def _gain(self, word: str) -> tuple[Numbers, Numbers]:
        """Return the indices of the classes in which a word occurs, and log(1 + its count) in each."""
        if word not in self._gains:
            counts = self._counts[word]
            self._gains[word] = np.array([*counts.keys()]), np.log1p([*counts.values()])
        return self._gains[word]


class LabelNaiveBayes:
    """A naive Bayes classifier for each label, which separates the rows with this label from the rows without it.

    It stores the word counts of the rows with each label and those of all rows; their difference is the counts of the rows without it.
    """

    def __init__(self, labels: int) -> None:
        self._rows, self._words = np.zeros(labels), np.zeros(labels)  # the number of rows with each label, and of words in them
        self._all_rows, self._totals = 0, Counter[str]()  # the number of all rows, and each word's count in them
        self._counts: defaultdict[str, Counter[int]] = defaultdict(Counter)  # each word's counts by label
        self._gains: dict[str, tuple[Numbers | slice, Numbers]] = {}

    def learn(self, words: Iterable[str], labels: Sequence[int]) -> None:
        """Count a row with these labels (their indices), and its words."""
        numbers, count = np.array(labels, np.int64), 0
        for word in words:
            if word in self._counts or len(self._counts) < MAX_WORDS:
                self._counts[word].update(labels)
                self._totals[word] += 1
                count += 1
        self._all_rows += 1
        self._rows[numbers] += 1
        self._words[numbers] += count

    def operations(self, rows: Iterable[Iterable[str]]) -> int:
        """Return the number of additions that `classify` needs for these rows."""
        return sum(len(self._rows) + sum(len(self._counts[word]) for word in words if word in self._counts) for words in rows)

    def classify(self, rows: Iterable[Iterable[str]]) -> Iterator[list[int]]:
        """Yield the indices of the labels that each row more likely has than not, ignoring unknown words. `learn` must not be called
        afterwards.
        """
        with np.errstate(divide="ignore"):  # a label that all rows have gives log(0)
            prior = np.log(self._rows) - np.log(self._all_rows - self._rows)  # (labels,)
        vocabulary = len(self._counts) or 1
        normalizer = np.log(self._words + vocabulary) - np.log(self._totals.total() - self._words + vocabulary)  # (labels,)
        for words in rows:
            known = [word for word in words if word in self._counts]
            scores = prior - len(known) * normalizer - sum(math.log1p(self._totals[word]) for word in known)
            for word in known:
                labels, gains = self._gain(word)
                scores[labels] += gains
            yield np.flatnonzero(scores > 0).tolist()

    def _gain(self, word: str) -> tuple[Numbers | slice, Numbers]:
        """Return labels, or a slice of all, and how much more a word adds to each one's score than to that of a label without this word."""
        if word not in self._gains:
            labels, counts = (np.array([*part], np.int64) for part in (self._counts[word], self._counts[word].values()))
            total = self._totals[word]
            gains = np.log1p(counts) - np.log1p(total - counts) + np.log1p(total)
            dense = np.zeros(len(self._rows))
            dense[labels] = gains
            self._gains[word] = (slice(None), dense) if 2 * len(labels) > len(dense) else (labels, gains)  # whichever form is added faster
        return self._gains[word]


def has_baselines(section: ObjectiveSection, text_metrics: Sequence[str]) -> bool:
    """Whether an objective has baselines; text_to_text, which generates texts, has them only if there are `text_metrics`."""
    return section.has_baselines or (section.kind == "text_to_text" and bool(text_metrics))


def baselines(section: ObjectiveSection, train: Iterable[Row] | None, scored: Iterable[Row], text_metrics: Sequence[str] = ()) -> Baselines:
    """Return the baselines of an objective; language modelling, for example, has none. `train`: the training rows; None: they are unknown.

    `text_metrics`: the metrics by which generated texts are compared with their references.
    """
    if not has_baselines(section, text_metrics):
        return {}
    train = train and _first(train)
    if section.kind == "text_to_text":
        return _source(scored, text_metrics)
    if section.kind == "multi_label":
        return _label_sets(section, train, scored)
    return _number(train, scored) if section.problem_type == "regression" else _OF_KIND[section.kind](train, scored)


def _classes(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent class, and naive Bayes over the words of a text or of a pair of texts; without training rows, only the most
    frequent class of the scored rows.
    """
    rows = list(scored)
    targets = [str(row.values["label"]) for row in rows]
    if train is None:
        return {"most_frequent_class_of_scored_rows": _class_scores(targets, _most_frequent(Counter(targets), len(targets)))}
    bayes = NaiveBayes()
    for row in train:
        bayes.learn(_words(row.values), str(row.values["label"]))
    found = {"most_frequent_class": _class_scores(targets, _most_frequent(bayes.rows, len(targets)))}
    if _is_affordable(len(rows) * len(bayes.rows)):
        found["naive_bayes"] = _class_scores(targets, list(bayes.classify(_words(row.values) for row in rows)))
    return found


def _label_sets(section: ObjectiveSection, train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent set of labels and, given training rows (at most MAX_LABEL_SETS are read), naive Bayes for each label."""
    rows = list(_with_sets(section, scored))
    known = rows if train is None else list(_with_sets(section, islice(train, MAX_LABEL_SETS)))
    frequent = set(_most_frequent(Counter("\0".join(sorted(labels)) for _, labels in known), 1)[0].split("\0")) - {""}
    constant = _set_scores([labels for _, labels in rows], [frequent] * len(rows))
    if train is None:
        return {"most_frequent_labels_of_scored_rows": constant}
    found = {"most_frequent_labels": constant}
    names = sorted(set[str]().union(*(labels for _, labels in known)))
    numbers, bayes, texts = {name: number for number, name in enumerate(names)}, LabelNaiveBayes(len(names)), [words for words, _ in rows]
    if _is_affordable(sum(len(words) * len(labels) for words, labels in known)):
        for words, labels in known:
            bayes.learn(words, [numbers[label] for label in labels])
        if _is_affordable(bayes.operations(texts)):
            predictions = [{names[number] for number in labels} for labels in bayes.classify(texts)]
            found["naive_bayes"] = _set_scores([labels for _, labels in rows], predictions)
    return found


def _tags(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the most frequent tag of all words and, if there are training rows, the most frequent tag of each word, in which an unknown
    word gets the former.
    """
    rows = list(_tagged(scored))
    targets = [tags for _, tags in rows]
    if train is None:
        frequent = _most_frequent(Counter(chain(*targets)), 1)[0]
        return {"most_frequent_tag_of_scored_rows": _tag_scores(targets, [[frequent] * len(tags) for tags in targets])}
    tag_counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    all_tags: Counter[str] = Counter()
    for words, tags in _tagged(train):
        all_tags.update(tags)
        for word, tag in zip(words, tags, strict=True):
            if word in tag_counts or len(tag_counts) < MAX_WORDS:
                tag_counts[word][tag] += 1
    frequent = _most_frequent(all_tags, 1)[0]
    tag_of_word = {word: _most_frequent(counts, 1)[0] for word, counts in tag_counts.items()}
    return {
        "most_frequent_tag": _tag_scores(targets, [[frequent] * len(tags) for tags in targets]),
        "most_frequent_tag_of_word": _tag_scores(targets, [[tag_of_word.get(word, frequent) for word in words] for words, _ in rows]),
    }


def _number(train: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score the mean label of the training rows or, if these are unknown, of the scored rows, as the prediction for all rows."""
    targets = np.array([*_numbers(scored)])
    name, known = ("mean_of_scored_rows", targets) if train is None else ("mean", np.fromiter(_numbers(train), float))
    return {name: {"rmse": regression_metrics(targets, np.full(len(targets), known.mean()))(unit_weights(len(targets)))["rmse"]}}


def _choices(_: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score a random answer, and the longest answer."""
    chances, longest = [], []
    for row in scored:
        choices = row.values["choices"]
        right = right_choice(row.place, choices, row.values["label"])
        if not isinstance(right, BadRow):
            chances.append(1 / len(choices))
            longest.append(max(range(len(choices)), key=lambda number: len(choices[number])) == right)
    return {"chance": {"accuracy": float(np.mean(chances))}, "longest_answer": {"accuracy": float(np.mean(longest))}}


def _answers(_: Iterable[Row] | None, scored: Iterable[Row]) -> Baselines:
    """Score, as the answer, the sentence of the context that has the most words in common with the question.

    If some questions have no answer, also score an empty answer to every question.
    """
    sentences, no_answers, some_have_none = [], [], False
    for row in scored:
        question, right = set(_WORD.findall(row.values["question"].lower())), [answer["text"] for answer in row.values["answers"]]
        context = split_sentences(row.values["context"]) or [""]
        best = max(context, key=lambda sentence: len(question & set(_WORD.findall(sentence.lower()))))
        sentences.append(answer_scores(best, right))
        no_answers.append(answer_scores("", right))
        some_have_none |= not right
    by_name = {"sentence_like_the_question": sentences} | ({"no_answer": no_answers} if some_have_none else {})
    return {
        name: dict(zip(("exact_match", "f1"), np.mean(scores, axis=0).tolist(), strict=True)) for name, scores in by_name.items() if scores
    }


def _source(scored: Iterable[Row], text_metrics: Sequence[str]) -> Baselines:
    """Score the source itself as the generated text. Blank references are left out, and so are rows that have no other references."""
    targets = ((row, [row.values["target"]] if isinstance(row.values["target"], str) else row.values["target"]) for row in scored)
    pairs = [(row.values["source"], right) for row, texts in targets if (right := [text for text in texts if text.strip()])]
    return {"source": reference_metrics([text for text, _ in pairs], [right for _, right in pairs], text_metrics)(unit_weights(len(pairs)))}


_OF_KIND: Mapping[str, Callable[[Iterable[Row] | None, Iterable[Row]], Baselines]] = {
    "classification": _classes,
    "tagging": _tags,
    "multiple_choice": _choices,
    "question_answering": _answers,
    "reward": preference_baselines,
    "dpo": preference_baselines,
}


def _is_affordable(operations: int) -> bool:
    """Whether a naive Bayes classifier that needs `operations` additions is computed; warn if it is not."""
    if operations > MAX_OPERATIONS:
        warnings.warn(f"naive Bayes is left out of the baselines: it would take {operations:,} operations", stacklevel=1)
    return operations <= MAX_OPERATIONS


def _first(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows until they have more than MAX_CHARACTERS characters in total; warn if there are more rows."""
    left = MAX_CHARACTERS
    for number, row in enumerate(rows):
        if left < 0:
            warnings.warn(
                f"the baselines learn from the first {number:,} training rows, which have {MAX_CHARACTERS:,} characters", stacklevel=1
            )
            return
        yield row
        left -= sum(len("".join(map(str, value)) if isinstance(value, list) else str(value)) for value in row.values.values())


def _with_sets(section: ObjectiveSection, rows: Iterable[Row]) -> Iterator[tuple[list[str], set[str]]]:
    for row in rows:
        labels = section.labels_in(row.values["labels"])
        yield list(_words(row.values)), {label for label, applies in labels.items() if applies}


def _words(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lower-case words of a text. Words in the second text of a pair get a suffix, which distinguishes them from those in the
    first.
    """
    yield from _WORD.findall(values["text"].lower())
    yield from (f"{word} 2" for word in _WORD.findall((values.get("pair") or "").lower()))


def _numbers(rows: Iterable[Row]) -> Iterator[float]:
    return (number for row in rows if (number := label_value(row.values["label"])) is not None)


def _tagged(rows: Iterable[Row]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words and the tags of each row that has as many tags as words; other rows are skipped."""
    for row in rows:
        words, tags = row.values["tokens"], [str(tag) for tag in row.values["tags"]]
        if len(words) == len(tags):
            yield words, tags


def _most_frequent(counts: Counter[str], times: int) -> list[str]:
    """Return a list that has the most frequent key `times` times; of equally frequent keys, the first in sorted order."""
    return [min(counts, key=lambda key: (-counts[key], key))] * times


def _class_scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    number_of = {label: number for number, label in enumerate(sorted({*targets, *predictions}))}
    numbers = (np.array([number_of[label] for label in labels]) for labels in (targets, predictions))
    scores = classification_metrics(*numbers)(unit_weights(len(targets)))
    return {name: scores[name] for name in ("accuracy", "f1_macro", "matthews")}


def _set_scores(targets: Sequence[set[str]], predictions: Sequence[set[str]]) -> dict[str, float]:
    labels = {label: number for number, label in enumerate(sorted(set[str]().union(*targets, *predictions)))}
    right, predicted = ([[labels[label] for label in row] for row in side] for side in (targets, predictions))
    exact = float(np.mean([target == prediction for target, prediction in zip(targets, predictions, strict=True)]))
    return label_set_metrics(right, predicted, len(labels))(unit_weights(len(targets))) | {"exact_match": exact}


def _tag_scores(targets: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    entities = entity_metrics(targets, predictions)(unit_weights(len(targets))) if mark_spans([*chain(*targets)]) else {}
    return _class_scores([*chain(*targets)], [*chain(*predictions)]) | entities

"""The baselines against scikit-learn, and against what is counted by hand; also where no training row is known."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.naive_bayes import MultinomialNB
from tiny_runs import Before

from tfkit.data.columns.forms import ClassName
from tfkit.data.columns.rows import Row
from tfkit.evaluation import baselines as module
from tfkit.evaluation.baselines import LabelNaiveBayes, NaiveBayes, baselines, has_baselines
from tfkit.recipe.schema.objective_facts import SECTIONS

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "ran", "Fast", "slow", "red"]


def found(kind: str, train: Any, scored: Any, metrics: Any = (), **fields: Any) -> dict[str, dict[str, float]]:
    """Return the baselines of an objective."""
    return baselines(SECTIONS[kind](kind=kind, **fields), train, scored, *([metrics] if metrics else []))


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row("", f"rows:{number}", one) for number, one in enumerate(values)]


def drawn(count: int, seed: int) -> Iterator[Row]:
    """Texts whose words depend on their class, of three unequal ones."""
    random = np.random.default_rng(seed)
    for number in range(count):
        label = int(random.choice(3, p=[0.6, 0.3, 0.1]))
        chances = np.ones(len(WORDS))
        chances[3 * label : 3 * label + 3] = 3
        words = random.choice(WORDS, int(random.integers(1, 9)), p=chances / chances.sum())
        yield Row("", str(number), {"text": " ".join(words), "label": f"class {label}"})


def test_classes_equal_scikit_learn() -> None:
    train, scored = list(drawn(300, 1)), list(drawn(100, 2))
    texts, labels = ([[row.values[name] for row in part] for part in (train, scored)] for name in ("text", "label"))
    counts = CountVectorizer()
    bayes = MultinomialNB().fit(counts.fit_transform(texts[0]), labels[0]).predict(counts.transform(texts[1]))
    often = DummyClassifier().fit(texts[0], labels[0]).predict(texts[1])
    scores = found("classification", train, iter(scored))
    for name, predicted in {"naive_bayes": bayes, "most_frequent_class": often}.items():
        assert scores[name]["accuracy"] == accuracy_score(labels[1], predicted)
        assert scores[name]["f1_macro"] == pytest.approx(f1_score(labels[1], predicted, average="macro"))
    assert scores["naive_bayes"]["accuracy"] > scores["most_frequent_class"]["accuracy"]


def test_the_words_of_two_texts_are_apart() -> None:
    """The same words in the other order: the class is known by the side alone."""
    pairs = [("good", "bad", "yes"), ("bad", "good", "no")] * 3
    of_pairs = rows(*({"text": text, "pair": pair, "label": label} for text, pair, label in pairs))
    assert found("classification", of_pairs, of_pairs)["naive_bayes"]["accuracy"] == 1


def test_words_beyond_the_limit_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WORDS", 2)
    bayes = NaiveBayes()
    for words, label in ((["a", "b"], "one"), (["a", "b"], "one"), (["c"], "two")):
        bayes.learn(words, label)
    assert list(bayes.classify([["c"], ["a"], []])) == ["one", "one", "one"]


def test_each_label_has_its_own_naive_bayes() -> None:
    films = (("sad", ["drama"]), ("funny", "comedy|film"), ("dull", "")) * 4
    train = rows(*({"text": f"{word} film", "labels": labels} for word, labels in films), {"text": "sad", "labels": "drama"})
    scored = rows({"text": "sad", "labels": "drama"}, {"text": "funny", "labels": ["film", "comedy"]}, {"text": "dull", "labels": []})
    scores = found("multi_label", train, scored)
    assert scores["naive_bayes"] == {"f1_micro": 1, "f1_macro": 1, "precision": 1, "recall": 1, "exact_match": 1}
    third = pytest.approx(1 / 3)  # drama for all: 1 of 3, and 1 of the 3 there are
    often = {"f1_micro": third, "f1_macro": pytest.approx(0.5 / 3), "precision": third, "recall": third, "exact_match": third}
    assert scores["most_frequent_labels"] == often
    assert [*found("multi_label", None, scored)] == ["most_frequent_labels_of_scored_rows"]


def exact_odds(train: list[tuple[str, set[int]]], words: str, label: int) -> Fraction:
    """The probability of a label, divided by that of its absence, by the definition of multinomial naive Bayes."""
    has, lacks = ([text for text, labels in train if (label in labels) == wanted] for wanted in (True, False))
    odds = Fraction(len(has), len(lacks)) if lacks else Fraction(10**9)
    vocabulary = set("".join(text for text, _ in train))
    for word in filter(vocabulary.__contains__, words):
        of, other = ("".join(part) for part in (has, lacks))
        odds *= Fraction(of.count(word) + 1, len(of) + len(vocabulary)) / Fraction(other.count(word) + 1, len(other) + len(vocabulary))
    return odds


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text("abcde", max_size=6), st.sets(st.integers(0, 4), max_size=4)), min_size=1, max_size=12),
    st.lists(st.text("abcdef", max_size=6), max_size=6),
)
def test_labels_together_are_as_likely_as_each_by_the_definition(train: list[tuple[str, set[int]]], texts: list[str]) -> None:
    """Each letter is a word. Also as the classifier of two classes says of each label; of equally likely ones either may be said."""
    together = LabelNaiveBayes(5)
    for text, labels in train:
        together.learn(text, sorted(labels))
    classified = list(together.classify(texts))
    for label in range(5):
        alone = NaiveBayes()
        for text, labels in train:
            alone.learn(text, str(label in labels))
        for text, labels, one in zip(texts, classified, alone.classify(texts), strict=True):
            odds = exact_odds(train, text, label)
            if odds != 1:
                assert (label in labels) == (odds > 1) == (one == "True")


def many_labels(count: int) -> list[Row]:
    """As many labels as rows: each has a word of its own, and one of all."""
    return rows(*({"text": f"word{number} all", "labels": [f"label{number}", "all"]} for number in range(count)))


def test_thousands_of_labels_take_a_pass_together_not_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[object] = []
    monkeypatch.setattr(NaiveBayes, "learn", None)
    with Before(LabelNaiveBayes, "learn", lambda *_: learned.append(None)):
        scored = many_labels(3000)
        assert found("multi_label", scored, scored)["naive_bayes"]["recall"] >= 0.5  # of the label that all have
    assert len(learned) == 3000


@pytest.mark.parametrize("kind", ["multi_label", "classification"])
def test_a_naive_bayes_of_too_many_operations_is_left_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = many_labels(40) if kind == "multi_label" else rows(*({"text": f"word{i}", "label": str(i)} for i in range(40)))
    assert "naive_bayes" in found(kind, data, data)
    monkeypatch.setattr(module, "MAX_OPERATIONS", 1000)
    with pytest.warns(UserWarning, match="naive Bayes is left out of the baselines: it would take"):
        assert [*found(kind, data, data)] == ["most_frequent_labels" if kind == "multi_label" else "most_frequent_class"]


TRAINED: dict[str, Any] = {
    "classification": lambda n: {"text": f"cat {n % 3}", "label": str(n % 3)},
    "multi_label": lambda n: {"text": f"cat {n % 3}", "labels": [str(n % 3)]},
    "tagging": lambda n: {"tokens": ["cat", str(n % 3)], "tags": ["O", "B-x" if n % 3 else "O"]},
    "reward": lambda n: {"prompt": "", "chosen": f"the cat {n % 3}" if n % 3 else "0", "rejected": "a dog"},
}


@pytest.mark.parametrize("kind", TRAINED)
def test_baselines_learn_from_the_first_rows_alone_where_there_are_very_many(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(*map(TRAINED[kind], [0, 0, 0, 0, *range(40)]))
    few, all_rows = found(kind, data[:4], data), found(kind, data, data)
    assert few != all_rows
    size = sum(len("".join(map(str, value)) if isinstance(value, list) else value) for row in data[:4] for value in row.values.values())
    monkeypatch.setattr(module, "MAX_CHARACTERS", size - 1)
    with pytest.warns(UserWarning, match="the baselines learn from the first 4 training rows"):
        assert found(kind, iter(data), data) == few
    monkeypatch.setattr(module, "MAX_CHARACTERS", 10**6)
    assert found(kind, iter(data), data) == all_rows


def test_each_word_has_its_most_frequent_tag() -> None:
    train = rows({"tokens": ["the", "cat", "sat"], "tags": ["O", "B-x", "O"]}, {"tokens": ["cat", "cat"], "tags": ["B-x", "O"]})
    scored = rows({"tokens": ["the", "cat", "new"], "tags": ["O", "B-x", "B-x"]}, {"tokens": ["no", "tag"], "tags": ["O"]})
    scores = found("tagging", train, scored)
    assert scores["most_frequent_tag"]["accuracy"] == pytest.approx(1 / 3)
    assert scores["most_frequent_tag_of_word"]["accuracy"] == pytest.approx(2 / 3)
    assert scores["most_frequent_tag_of_word"]["f1"] == pytest.approx(2 / 3)  # one of two names
    assert found("tagging", None, scored)["most_frequent_tag_of_scored_rows"]["accuracy"] == pytest.approx(2 / 3)  # B-x


def test_a_number_has_the_mean_of_the_training_rows() -> None:
    train, scored = rows({"text": "a", "label": "1"}, {"text": "b", "label": "3"}), rows({"text": "c", "label": "4"})
    assert found("classification", train, scored, regression=True) == {"mean": {"rmse": 2.0}}
    assert found("classification", None, scored, regression=True) == {"mean_of_scored_rows": {"rmse": 0.0}}


def test_the_mean_is_that_of_the_numbers_that_the_model_learns() -> None:
    """Of a data set's class, the number in its name."""
    labels = [ClassName("20", 0), ClassName("40", 1), "60", ClassName("eight", 8), "1e300"]
    data = rows(*({"text": "", "label": label} for label in labels))
    assert found("classification", data, data, regression=True)["mean"]["rmse"] == pytest.approx(np.std([20, 40, 60, 8]))


def test_choices_have_chance_and_the_longest() -> None:
    scored = rows({"context": "x", "choices": ["a", "bb"], "label": "1"}, {"context": "x", "choices": ["aaa", "b", "c", "d"], "label": "B"})
    assert found("multiple_choice", [], scored) == {"chance": {"accuracy": 0.375}, "longest_answer": {"accuracy": 0.5}}


def test_a_question_has_the_sentence_that_is_like_it() -> None:
    context = "The dog ran. A cat sat on the mat! It was red."
    asked = [("Where sat the cat?", ["A cat sat on the mat!", "mat"]), ("Who ran?", ["The dog"]), ("Is it slow?", [])]
    values = [{"question": question, "context": context, "answers": [{"text": one} for one in right]} for question, right in asked]
    scores = found("question_answering", None, rows(*values), unanswerable=True)
    # "the" is an article; of "dog ran" one word of two is right; "It was red" is wrong where there is no answer
    assert scores["sentence_like_the_question"] == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}
    assert scores["no_answer"] == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx(1 / 3)}
    assert "no_answer" not in found("question_answering", None, rows(*values[:2]), unanswerable=True)


def test_a_text_is_compared_with_its_source() -> None:
    scored = rows({"source": "a b c d", "target": ["a b c d", "x"]}, {"source": "a b c d", "target": "z"}, {"source": "no", "target": [""]})
    assert found("text_to_text", [], scored, ["exact_match"]) == {"source": {"exact_match": 0.5}}
    assert not has_baselines(SECTIONS["text_to_text"](kind="text_to_text"), [])


def test_a_language_model_has_none() -> None:
    for kind in ("causal_lm", "chat", "masked_lm"):
        assert found(kind, None, [], ["bleu"]) == {}


def preferences(count: int, seed: int, *, longer: bool | None, word: str | None) -> Iterator[Row]:
    """Pairs whose better completion is longer, or shorter, or not of another length, and may have a word that the worse one lacks."""
    random = np.random.default_rng(seed)
    for number in range(count):
        base = " ".join(random.choice(["the", "dog", "sat", "mat", "ran"], 5))
        better = f"{base} {word or 'sat'}" if longer is None else f"{base} long and long" if longer else "x"
        worse = f"{base} mat" if longer is None else base
        yield Row("", f"rows:{number}", {"prompt": "p", "chosen": better, "rejected": worse})


@pytest.mark.parametrize("longer", [True, False])
def test_length_goes_the_way_that_the_training_rows_say(longer: bool) -> None:
    train, scored = (preferences(40, seed, longer=longer, word=None) for seed in (1, 2))
    assert found("reward", train, scored)["length"] == {"accuracy": 1.0}


def test_bag_of_words_learns_a_word() -> None:
    train, scored = (preferences(60, seed, longer=None, word="cat") for seed in (1, 2))
    assert found("dpo", train, scored) == {"length": {"accuracy": 0.5}, "bag_of_words": {"accuracy": 1.0}}


def test_several_completions_are_all_their_pairs_and_what_says_nothing_counts_for_none() -> None:
    ranked = Row("", "rows:1", {"completions": ["one two three", "one two", "one"], "ranks": [1.0, 2.0, 3.0]})
    tie = Row("", "rows:2", {"completions": ["a", "b"], "ranks": [1.0, 1.0]})
    assert found("reward", [ranked], [ranked, tie]) == {"length": {"accuracy": 1.0}, "bag_of_words": {"accuracy": 1.0}}
    assert found("reward", None, [ranked]) == {"length_of_scored_rows": {"accuracy": 1.0}}
    assert found("reward", [ranked], [tie]) == {}

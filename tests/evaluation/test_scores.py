"""Every metric against the field's own library, on random sets and on the odd ones, each row counted as often as a resample says."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import sacrebleu
import seqeval.metrics
from rouge_score import rouge_scorer
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn_metrics

from tfkit.data.columns.rows import Row
from tfkit.errors import MachineError
from tfkit.objectives.metrics import Numbers, intervals, unit_weights
from tfkit.objectives.metrics import texts as text_scores
from tfkit.objectives.metrics.classes import classification_metrics, tag_metrics
from tfkit.objectives.metrics.entities import entity_metrics, mark_spans, spans
from tfkit.objectives.metrics.texts import reference_metrics
from tfkit.objectives.text_regression import regression_metrics
from tfkit.objectives.text_to_text import TextToText
from tfkit.recipe.schema.output_sections import EvaluationSection


def resamples(rows: int, seed: int = 0) -> Iterator[tuple[Numbers, Any]]:
    """The set as it is, and two draws with repetition: how often each row is in it, and the numbers of its rows."""
    random = np.random.default_rng(seed)
    for weights in (unit_weights(rows), *(np.bincount(random.integers(rows, size=rows), minlength=rows) * 1.0 for _ in range(2))):
        yield weights, np.repeat(np.arange(rows), weights.astype(int))


CLASSES = {
    "random": ([*np.random.default_rng(1).integers(5, size=60)], [*np.random.default_rng(2).integers(5, size=60)]),
    "imbalanced": ([0] * 37 + [1] * 3, [0] * 39 + [1]),
    "one class in the targets": ([1] * 9, [0, 1, 2] * 3),
    "one class predicted": ([0, 1, 2] * 3, [1] * 9),
    "no positives": ([0] * 6, [0] * 6),
    "all wrong": ([0, 0, 1, 1], [1, 1, 0, 0]),
    "a number that no row has": ([0, 4, 4], [4, 4, 0]),
    "one row": ([2], [2]),
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_classes_equal_scikit_learn(name: str) -> None:
    targets, predictions = (np.array(side) for side in CLASSES[name])
    for weights, again in resamples(len(targets)):
        y, p = targets[again], predictions[again]
        wanted = {"accuracy": sklearn_metrics.accuracy_score(y, p), "matthews": sklearn_metrics.matthews_corrcoef(y, p)}
        wanted |= {f"f1_{kind}": sklearn_metrics.f1_score(y, p, average=kind) for kind in ("macro", "micro")}
        wanted["majority"] = np.mean(y == max(set(targets), key=[*targets].count))
        assert classification_metrics(targets, predictions)(weights) == pytest.approx(wanted, abs=1e-12)


def test_words_count_as_often_as_their_sentences() -> None:
    targets, predictions, rows = np.array([0, 1, 1, 2, 0]), np.array([0, 1, 2, 2, 1]), np.array([0, 0, 1, 1, 1])
    twice = classification_metrics(targets[[0, 1, 0, 1]], predictions[[0, 1, 0, 1]])  # the first sentence, the second never
    assert tag_metrics(targets, predictions, rows)(np.array([2.0, 0.0])) == twice(unit_weights(4))


NUMBERS = {
    "random": (np.random.default_rng(1).normal(size=50), np.random.default_rng(2).normal(size=50)),
    "ties": (np.random.default_rng(1).integers(4, size=50), np.random.default_rng(2).integers(4, size=50)),
    "large and close": (1e6 + np.random.default_rng(1).normal(size=50), 1e6 + np.random.default_rng(2).normal(size=50)),
    "tiny": (1e-180 * np.arange(9.0), 1e-180 * np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5])),
    "a line": (np.arange(9.0), 3 - 2 * np.arange(9.0)),
    "constant predictions": (np.arange(9.0), np.full(9, 0.1)),
    "constant labels": (np.full(9, 0.1), np.arange(9.0)),
    "a prediction that is none": (np.arange(4.0), np.array([1.0, 2.0, math.nan, 3.0])),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.filterwarnings("ignore:An input array is:RuntimeWarning")
def test_numbers_equal_scipy(name: str) -> None:
    targets, predictions = NUMBERS[name]
    for weights, again in resamples(len(targets)):
        found = regression_metrics(targets, predictions)(weights)
        assert found["rmse"] == pytest.approx(math.sqrt(np.mean((targets - predictions)[again] ** 2)), nan_ok=True)
        assert found["pearson"] == pytest.approx(stats.pearsonr(targets[again], predictions[again])[0], abs=1e-9, nan_ok=True)
        assert found["spearman"] == pytest.approx(stats.spearmanr(targets[again], predictions[again])[0], abs=1e-9, nan_ok=True)


TAGS = ["O", "B-a", "I-a", "E-a", "S-a", "B-b-c", "I-b-c", "E-b-c", "I", "B", "a-a", ".", "I-"]
SENTENCES = [[*np.random.default_rng(seed).choice(TAGS[: 3 + seed % 11], 1 + seed % 9)] for seed in range(400)]


@pytest.mark.filterwarnings("ignore:.*seems not to be NE tag:UserWarning")
def test_the_spans_of_any_tags_are_seqevals() -> None:
    for sentence in SENTENCES:
        assert spans(sentence) == {(start, end + 1, kind) for kind, start, end in get_entities(sentence)}, sentence


NAMES = {
    "random": (SENTENCES[:200:2], [[*reversed(sentence)] for sentence in SENTENCES[:200:2]]),
    "BIO": ([["B-a", "I-a", "O"], ["B-b"], ["O", "B-a"]], [["B-a", "O", "O"], ["I-b"], ["O", "B-a"]]),
    "broken BIO": ([["B-a", "I-a"], ["B-a", "I-a", "I-b"]], [["I-a", "I-a"], ["O", "I-a", "B-b"]]),
    "none predicted": ([["B-a", "O"]], [["O", "O"]]),
    "none in the targets": ([["O", "O"]], [["B-a", "O"]]),
    "none at all": ([["O"]], [["O"]]),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_equal_seqeval(name: str) -> None:
    targets, predictions = NAMES[name]
    for weights, again in resamples(len(targets)):
        y, p = [targets[i] for i in again], [predictions[i] for i in again]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are none, and of 0 / 0
            wanted = [getattr(seqeval.metrics, f"{one}_score")(y, p) for one in ("precision", "recall", "f1")]
        assert list(entity_metrics(targets, predictions)(weights).values()) == pytest.approx(wanted, abs=1e-12)


def test_which_tags_mark_names() -> None:
    assert all(mark_spans(["O", tag]) for tag in ("B-a", "I-a", "E-a", "S-a"))
    assert not mark_spans(["NOUN", "VERB", "SYM-x", "O", "B"])


WORDS = ["the", "cat", "Cats,", "sat", "on", "a", "mat.", "élan", "3.14", "running", "don't"]
WRITTEN = [" ".join(np.random.default_rng(seed).choice(WORDS, 3 + seed % 6)) for seed in range(30)]
REFERENCES = [
    [" ".join(np.random.default_rng(99 + seed + other).choice(WORDS, 3 + seed % 5)) for other in range(1 + seed % 3)] for seed in range(30)
]
TEXTS = {
    "several references": (WRITTEN, REFERENCES),
    "empty predictions": (["", " ", *WRITTEN[:3]], REFERENCES[:5]),
    "nothing but empty": (["", ""], REFERENCES[:2]),
    "the same": ([ours[0] for ours in REFERENCES], REFERENCES),
    "shorter than four words": (["the cat", "a", "mat."], [["the cat"], ["a", "the"], ["mat"]]),
    "looks tokenized": (["the cat ."] * 120, [["the cat ."]] * 120),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_equal_sacrebleu_and_rouge_score(name: str) -> None:
    written, references = TEXTS[name]
    scores = reference_metrics(written, references, ["exact_match", "bleu", "chrf", "rouge"])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for weights, again in resamples(len(written)):
        texts, ours = [written[i] for i in again], [references[i] for i in again]
        streams = [[one[place] if place < len(one) else None for one in ours] for place in range(max(map(len, ours)))]
        rouge = [scorer.score_multi(one, text) for one, text in zip(ours, texts, strict=True)]
        wanted = {kind: np.mean([one[kind].fmeasure for one in rouge]) for kind in ("rouge1", "rouge2", "rougeL")}
        wanted["exact_match"] = np.mean([text.strip() in one for text, one in zip(texts, ours, strict=True)])
        for name, metric in (("bleu", sacrebleu.BLEU(force=True)), ("chrf", sacrebleu.CHRF())):
            wanted[name] = metric.corpus_score(texts, streams).score
        assert scores(weights) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("tokenize", get_args(EvaluationSection.model_fields["bleu_tokenize"].annotation))
def test_the_tokenizer_of_bleu_can_be_named(tokenize: str) -> None:
    texts, references = ["猫坐在垫子上。", "the cat, (sat)«on» a mat"], [["猫坐在垫子上!"], ["the cat (sat) «on» the mat", "a cat"]]
    streams = [[references[0][0], references[1][0]], [None, references[1][1]]]
    wanted = sacrebleu.BLEU(tokenize=tokenize).corpus_score(texts, streams).score
    assert reference_metrics(texts, references, ["bleu"], tokenize)(np.ones(2))["bleu"] == pytest.approx(wanted, abs=1e-9)


def test_a_library_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(text_scores._LIBRARIES, "rouge", "no_such_library_anywhere")
    with pytest.raises(MachineError, match=r"rouge needs the extra eval: in the folder of tfkit, pip install -e '\.\[eval\]'"):
        text_scores.require_libraries(["exact_match", "rouge"])
    text_scores.require_libraries(["exact_match", "bleu", "chrf"])


def test_intervals_are_those_of_the_mean_and_hold_it_as_often_as_they_say() -> None:
    """Of 300 sets from a distribution with the mean 0.3, the intervals of about 95 % hold 0.3."""

    def of_mean(values: Numbers, count: int, seed: int) -> list[float]:
        return intervals(lambda weights: {"mean": weights @ values / weights.sum()}, len(values), count, seed=seed)["mean"]

    random, held = np.random.default_rng(5), 0
    for number in range(300):
        low, high = of_mean((random.random(80) < 0.3).astype(float), 200, number)
        held += low <= 0.3 <= high
    assert 0.90 < held / 300 < 0.98
    values = random.normal(size=200)
    one = of_mean(values, 2000, 1)
    assert one == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / math.sqrt(200), abs=0.02)
    assert one == of_mean(values, 2000, 1) != of_mean(values, 2000, 2)


def test_every_interval_contains_its_estimate() -> None:
    """Of 500 classes with two rows each a resample lacks many, and its macro F1 is nearly always below that of the set."""
    random = np.random.default_rng(3)
    targets = np.arange(1000) % 500
    predictions = np.where(random.random(1000) < 0.6, targets, random.integers(500, size=1000))
    scores = classification_metrics(targets, predictions)
    found, estimates = intervals(scores, 1000, 200, seed=1), scores(unit_weights(1000))
    resampled = [scores(np.bincount(random.integers(1000, size=1000), minlength=1000) * 1.0)["f1_macro"] for _ in range(200)]
    assert np.percentile(resampled, 97.5) < estimates["f1_macro"]
    assert all(low <= estimates[name] <= high for name, (low, high) in found.items())
    assert found["f1_macro"][1] - found["f1_macro"][0] == pytest.approx(np.subtract(*np.percentile(resampled, (97.5, 2.5))), rel=0.25)
    perfect = intervals(classification_metrics(targets, targets), 1000, 50, seed=1)
    assert perfect["accuracy"] == [1, 1]
    nearly = intervals(classification_metrics(targets, np.append(targets[1:], 0)), 1000, 50, seed=1)["accuracy"]
    assert 0 <= nearly[0] <= nearly[1] <= 1


def test_no_interval_is_beyond_the_bounds_of_its_metric_and_resamples_without_a_value_count_for_nothing() -> None:
    """Of three rows many resamples have a correlation of 1 or -1, far from that of all three, and some are constant."""
    found = intervals(regression_metrics(np.array([0.1, 0.2, 0.8]), np.array([0.6, 0.1, 0.4])), 3, 200, seed=1)
    assert all(-1 <= low <= high <= 1 for low, high in (found["pearson"], found["spearman"]))
    targets = np.array([0.0, 1.0, 2.0])
    found = intervals(regression_metrics(targets, np.array([0.0, 1.0, 1.0])), 3, 200, seed=1)
    assert found["pearson"] == pytest.approx([0.5, 1.0], abs=0.51)
    assert np.isnan(intervals(regression_metrics(targets, np.ones(3)), 3, 20, seed=1)["pearson"]).all()


def test_a_row_whose_targets_are_all_blank_has_one_of_them_as_its_reference() -> None:
    objective = object.__new__(TextToText)
    rows = [Row("", "rows:1", {"target": [" ", "a"]}), Row("", "rows:2", {"target": ["\u2003", " "]})]
    found = [objective.references(row, {}) for row in rows]
    assert found == [["a"], ["\u2003"]]
    assert reference_metrics(["a", "b"], found, ["bleu", "chrf", "rouge", "exact_match"])(np.ones(2))["exact_match"] == 0.5

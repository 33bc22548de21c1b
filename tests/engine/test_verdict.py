"""Whether a model beats its baselines, and what is said of one that learned nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkit.engine.assembly.verdict import advice, compare, comparison_fields, predicts_one_class
from tfkit.objectives.metrics import unit_weights
from tfkit.objectives.metrics.classes import classification_metrics
from tfkit.recipe.schema.objective_sections import TEXT_METRICS
from tfkit.units import _BASELINE_METRICS

scores = st.floats(0, 1)


@given(st.dictionaries(st.sampled_from(["most_frequent_class", "naive_bayes", "other"]), scores, min_size=1), scores)
def test_a_model_beats_its_baselines_if_it_is_better_than_each(of_baselines: dict[str, float], score: float) -> None:
    for metric, sign in {**dict.fromkeys((*_BASELINE_METRICS, *TEXT_METRICS), 1), "rmse": -1}.items():
        found = compare({name: {metric: value} for name, value in of_baselines.items()}, {metric: score}, metric)
        assert found.beats == all(sign * score > sign * value for value in of_baselines.values())
        assert found.value == (max if sign > 0 else min)(of_baselines.values())
        assert of_baselines[found.baseline] == found.value


def test_the_metric_is_the_one_that_chooses_the_best_checkpoint_if_the_baselines_have_it() -> None:
    baselines = {"most_frequent_class": {"accuracy": 0.9, "f1_macro": 0.47}}
    metrics = {"loss": 0.1, "accuracy": 0.9, "f1_macro": 0.6}
    of_f1, of_loss = compare(baselines, metrics, "f1_macro"), compare(baselines, metrics, "loss")
    assert (of_f1.metric, of_f1.beats) == ("f1_macro", True)
    assert (of_loss.metric, of_loss.beats) == ("accuracy", False), "an equal score does not beat it"
    assert compare({}, metrics) is None
    assert comparison_fields(None) == {"beats_baseline": None, "best_baseline": None}
    assert comparison_fields(of_loss)["beats_baseline"] == 0


@settings(derandomize=True)  # targets 0 2 1 0 2 3 and predictions 2 2 0 2 2 0 have the metrics of one class among three
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.data())
def test_one_class_for_all_rows_is_noticed(targets: list[int], data: st.DataObject) -> None:
    predictions = data.draw(st.lists(st.integers(0, 3), min_size=len(targets), max_size=len(targets)) | st.just([0] * len(targets)))
    metrics = classification_metrics(np.array(targets), np.array(predictions))(unit_weights(len(targets)))
    right_sometimes = len({*targets}) > 1 and predictions[0] in targets
    assert predicts_one_class(metrics) == (len({*predictions}) == 1 and right_sometimes)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({}, "Try a lower rate, optimizer.lr=0.0001"),
        ({10: 0.7, 20: 0.699}, "hardly fell (0.7 to 0.699): try a lower rate, optimizer.lr=0.0001, or training.epochs=6"),
        ({10: 0.8, 20: 0.70002}, "did not fall (0.7 to 0.7): try a lower rate, optimizer.lr=0.0001, or training.epochs=6"),
        ({10: 0.8, 20: 0.72}, "rose (0.7 to 0.72): try a lower rate, optimizer.lr=0.0001"),
        ({10: 0.6, 20: 0.5}, "was still falling at the end (0.5): try training.epochs=6"),
        ({10: 0.4, 20: 0.5, 30: None}, "was lowest in step 10 (0.4) and 0.5 at the end: more rows help most"),
    ],
)
def test_the_advice_has_the_numbers(losses: dict[int, float | None], words: str) -> None:
    assert words in advice({"loss": 0.7, "accuracy": 0.4}, {"accuracy": 0.5}, losses, 3e-4, 3)


def test_a_model_that_answers_as_before_needs_a_higher_rate() -> None:
    before = {"loss": 0.7, "accuracy": 0.4, "matthews": 0.1}
    words = advice(before, {**before, "loss": 0.699}, {10: 0.699}, 1e-7, 3)
    assert words == "Its answers are those of before the first step (loss 0.7 to 0.699): try a higher rate, optimizer.lr=1e-06"


def test_no_number_and_always_the_same_answer_beat_nothing() -> None:
    """Also where the scored rows have that class more often than the training rows, whose most frequent one is the baseline."""
    no_number = compare({"mean": {"rmse": 1.0}}, {"rmse": None})
    assert (math.isnan(no_number.score), no_number.beats) == (True, False)
    baselines, one_class = {"most_frequent_class": {"accuracy": 0.42}}, {"accuracy": 0.58, "f1_macro": 0.58 / 1.58, "matthews": 0.0}
    found = compare(baselines, one_class)
    assert (found.beats, found.is_perfect) == (False, False)
    assert compare(baselines, one_class | {"matthews": 0.2}).beats


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [("f1", 1.0, True), ("f1", 0.9, False), ("rmse", 0.0, True), ("rmse", 1.0, False), ("chrf", 100.0, True), ("bleu", 1.0, False)],
)
def test_a_perfect_score_that_a_baseline_has_needs_no_advice(metric: str, value: float, expected: bool) -> None:
    found = compare({"other": {metric: value}}, {metric: value})
    assert (found.beats, found.is_perfect) == (False, expected)

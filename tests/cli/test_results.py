"""The last lines of a training: which checkpoint they describe, and baselines in words."""

from typing import Any

import pytest

from tfkit.cli.results import _lines, beside_baseline

RESULT: dict[str, Any] = {
    "checkpoint": "r/checkpoints/step-000045",
    "steps": 133,
    "tokens": 10_600,
    "seconds": 12.0,
    "loss": 0.696,
    "evaluation": {"loss": 0.6978, "accuracy": 0.4255},
    "before": {"loss": 0.6909, "accuracy": 0.5957},
    "energy_kwh": None,
    "emissions_g": None,
    "baselines": {"most_frequent_class": {"accuracy": 0.4255}},
    "inherited_g": None,
    "inherited_is_lower_bound": False,
}


@pytest.mark.parametrize(
    ("best", "shown"), [(45, ["best        step 45, of which the result is", "accuracy 0.4255, at the last step"]), (133, [])]
)
def test_the_lines_say_which_checkpoint_they_describe(best: int, shown: list[str]) -> None:
    text = _lines(RESULT | {"best": {"step": best, "metric": "accuracy", "value": 0.5745}})
    assert "loss        0.6960 on training rows" in text
    assert all(one in text for one in shown)
    assert ("at the last step" in text) == bool(shown)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("most_frequent_class", "always answering the most frequent class"),
        ("most_frequent_tag", "always answering the most frequent tag"),
        ("most_frequent_tag_of_word", "each word's most frequent tag"),
        ("mean", "always answering the mean of the training rows"),
        ("naive_bayes", "naive bayes"),
    ],
)
def test_a_baseline_is_named_by_what_it_does(name: str, words: str) -> None:
    best = {"name": name, "metric": "rmse" if name == "mean" else "f1", "value": 0.5, "score": 0.2}
    assert f" {words}: 0.5" in beside_baseline({"best_baseline": best, "beats_baseline": int(name == "mean")})

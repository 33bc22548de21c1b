"""Metrics that can choose the best checkpoint: those that an evaluation of the training reports."""

import pytest

from tfkit.recipe.schema.best_metric import metrics_of
from tfkit.recipe.schema.label_sections import ClassificationSection, MultipleChoiceSection
from tfkit.recipe.schema.objective_facts import ObjectiveSection
from tfkit.recipe.schema.objective_sections import TextToTextSection


@pytest.mark.parametrize(
    ("objective", "reported", "unreported"),
    [
        (MultipleChoiceSection(kind="multiple_choice"), "lm", "rmse"),
        (MultipleChoiceSection(kind="multiple_choice", lm_weight=0), "choices", "lm"),
        (TextToTextSection(kind="text_to_text", label_smoothing=0.1), "nll", "bleu"),
        (TextToTextSection(kind="text_to_text", label_smoothing=0), "loss", "nll"),
        (ClassificationSection(kind="classification", regression=True), "rmse", "accuracy"),
    ],
)
def test_a_metric_that_is_not_reported_chooses_nothing(objective: ObjectiveSection, reported: str, unreported: str) -> None:
    assert reported in metrics_of(objective)
    assert unreported not in metrics_of(objective)

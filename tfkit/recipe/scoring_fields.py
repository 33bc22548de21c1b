"""The fields of a recipe that decide what an evaluation scores. Scores of runs that differ in such a field may not be comparable."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_LENGTH, _CONTEXT = "data.sequence_length", "model.context_length"
_OF_OBJECTIVES = (
    *("label_smoothing", "lm_weight", "beta", "train_on", "format", "system"),
    *("rate", "split", "mean_span", "whole_words", "rarity", "next_sentence", "short_rows"),
)
_FIELDS = (_LENGTH, _CONTEXT, "evaluation.max_tokens", *(f"objective.{name}" for name in _OF_OBJECTIVES))


def scoring_fields(names: Iterable[str]) -> list[str]:
    """Return those of `names` that decide what an evaluation scores. A name is dotted, and may begin with a stage's name."""
    return [name for name in names if any(f".{name}".endswith(f".{field}") for field in _FIELDS)]


def scoring_differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields that decide what an evaluation scores and in which the recipes differ. `recipes`: for each recipe the values of all
    its fields, by dotted name. The context length counts only if a recipe sets no data.sequence_length.
    """
    differing = [name for name in _FIELDS if len({repr(recipe.get(name)) for recipe in recipes}) > 1]
    has_lengths = all(recipe.get(_LENGTH) is not None for recipe in recipes)
    return [name for name in differing if not (name == _CONTEXT and has_lengths)]

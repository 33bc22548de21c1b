"""Length and bag of words as baselines of preferences: what each can and cannot learn, with and without rows to learn from."""

from collections.abc import Iterator

import numpy as np
import pytest

from tfkit.data.columns.rows import Row
from tfkit.evaluation.baselines import baselines
from tfkit.recipe.schema.preference_sections import DPOSection, RewardSection

WORDS = ["the", "dog", "sat", "mat", "ran"]


def rows(count: int, seed: int, *, longer: bool | None, word: str | None) -> Iterator[Row]:
    """Pairs whose better completion is longer, or shorter, or not of another length, and may have a word that the worse one lacks."""
    random = np.random.default_rng(seed)
    for number in range(count):
        base = " ".join(random.choice(WORDS, 5))
        better = f"{base} {word or 'sat'}" if longer is None else f"{base} long and long" if longer else "x"
        worse = f"{base} mat" if longer is None else base
        yield Row("", f"rows:{number}", {"prompt": "p", "chosen": better, "rejected": worse})


@pytest.mark.parametrize("longer", [True, False])
def test_length_goes_the_way_that_the_training_rows_say(longer: bool) -> None:
    made = (rows(40, seed, longer=longer, word=None) for seed in (1, 2))
    found = baselines(RewardSection(kind="reward"), *made)
    assert found["length"] == {"accuracy": 1.0}


def test_bag_of_words_learns_a_word() -> None:
    made = (rows(60, seed, longer=None, word="cat") for seed in (1, 2))
    found = baselines(DPOSection(kind="dpo"), *made)
    assert found == {"length": {"accuracy": 0.5}, "bag_of_words": {"accuracy": 1.0}}


def test_several_completions_are_all_their_pairs_and_what_says_nothing_counts_for_none() -> None:
    ranked = Row("", "rows:1", {"completions": ["one two three", "one two", "one"], "ranks": [1.0, 2.0, 3.0]})
    tie = Row("", "rows:2", {"completions": ["a", "b"], "ranks": [1.0, 1.0]})
    found = baselines(RewardSection(kind="reward"), [ranked], [ranked, tie])
    assert found == {"length": {"accuracy": 1.0}, "bag_of_words": {"accuracy": 1.0}}
    assert baselines(RewardSection(kind="reward"), None, [ranked]) == {"length_of_scored_rows": {"accuracy": 1.0}}
    assert baselines(RewardSection(kind="reward"), [ranked], [tie]) == {}

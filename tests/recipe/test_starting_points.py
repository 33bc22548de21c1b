"""The size and the rate of a fine-tuning without a recipe, by the rows that there are and the model."""

from dataclasses import replace

import pytest

from tfkit.recipe.starting_points import BERT, DPO, GPT, SMOLLM2, TUNED, starting_point, step_tokens
from tfkit.recipe.task_readings import readings


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    # 40 rows are 50 steps, 227 are 57
    [(1, 8, 10), (40, 8, 10), (227, 8, 2), (400, 16, 2), (799, 16, 2), (800, 32, 2), (3_199, 64, 2), (3_200, 128, 2), (10**9, 128, 2)],
)
def test_a_small_set_gets_small_batches_and_more_epochs(rows: int, batch_size: int, epochs: int) -> None:
    assert SMOLLM2.batch_for(rows, 20, 8192) == batch_size
    assert SMOLLM2.epochs_for(rows, batch_size) == epochs


@pytest.mark.parametrize(
    ("row_tokens", "batch_size", "least"),
    [(64, 32, 1), (256, 32, 1), (1024, 8, 1), (8192, 1, 1), (1e5, 1, 1), (1024, 8, None), (1e5, 8, None)],
)
def test_a_step_has_the_tokens_that_it_may_have(row_tokens: float, batch_size: int, least: int | None) -> None:
    """Of labelled rows at least 8."""
    assert GPT.batch_for(10**6, row_tokens, 8192, least) == batch_size


def test_a_large_model_takes_smaller_steps_and_a_tuned_one_does_not_read_few_rows_ten_times() -> None:
    assert [step_tokens(parameters) for parameters in (10**6, 135_000_000, 10**10)] == [8192, 2469, 1024]
    assert TUNED.batch_for(10**6, 200, step_tokens(135_000_000)) == 8
    assert [TUNED.epochs_for(rows, 8) for rows in (29, 130, 1000)] == [4, 4, 2]


def test_each_class_has_thirty_examples_in_ten_epochs_at_most_and_a_rate_falls_with_the_square_root_of_a_large_batch() -> None:
    assert [BERT.epochs_for(600, 16, classes) for classes in (2, 77, 150, 1000)] == [4, 4, 8, 10]
    assert BERT.epochs_for(100_000, 32, 1000) == 3
    assert [SMOLLM2.lr(135_000_000, size) for size in (128, 32, 8, 512)] == [1e-3, 5e-4, 2.5e-4, 1e-3]
    assert [GPT.lr(124_000_000, size) for size in (8, 32)] == [6.25e-5, 6.25e-5]


def test_a_small_model_learns_faster_and_a_tuned_one_slower() -> None:
    for kind, stacks, sizes in (
        ("tagging", "encoder", (4_000_000, 22_700_000, 110_000_000, 340_000_000)),
        ("classification", "decoder", (4_000_000, 124_000_000, 1_720_000_000)),
        ("text_to_text", "both", (1_000_000, 60_000_000)),
    ):
        rates = [starting_point(kind, stacks, parameters).lr(parameters, 32) for parameters in sizes]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 5 * rates[-1]
    kinds = [(kind, tuned) for kind in ("chat", "causal_lm", "classification") for tuned in (True, False)]
    points = [starting_point(kind, "decoder", 135_000_000, tuned=tuned) for kind, tuned in kinds]
    assert points == [TUNED, SMOLLM2, TUNED, GPT, GPT, GPT]
    assert TUNED.lr(135_000_000, 8) == 5e-5


KINDS = [("classification", "encoder"), ("classification", "decoder"), ("causal_lm", "decoder"), ("chat", "decoder"), ("dpo", "decoder")]


@pytest.mark.parametrize("parameters", [1_000_000, 22_700_000, 70_000_000, 150_000_000, 400_000_000, 1_000_000_000, 2_000_000_000])
def test_a_rate_says_what_it_was_measured_on_or_published_for_and_that_it_is_extrapolated_to_others(parameters: int) -> None:
    """Measured were MiniLM, SmolLM2-135M-Instruct and models of a few million."""
    for kind, stacks in (*KINDS, ("text_to_text", "both")):
        for tuned, adapter in ((False, False), (True, False), (True, True)):
            point = starting_point(kind, stacks, parameters, tuned, adapter)
            basis = point.basis(parameters)
            assert "extrapolated" in basis
            assert "measured" in basis or "million" in basis or "billion" in basis
            assert point.lr(2_000_000_000, 32) <= point.lr(parameters, 32)


def test_an_adapter_takes_ten_times_the_rate_of_a_tuned_model_at_any_batch() -> None:
    """Of text as of chat; the length and the schedule are those of all weights."""
    for kind, tuned, whole in (("chat", True, TUNED), ("causal_lm", True, TUNED), ("chat", False, SMOLLM2), ("causal_lm", False, GPT)):
        point = starting_point(kind, "decoder", 135_000_000, tuned, adapter=True)
        assert {point.lr(135_000_000, size) for size in (1, 8, 128)} == {10 * TUNED.lr(135_000_000, 8)}
        assert point.lr(7_000_000_000, 8) == 10 * TUNED.lr(7_000_000_000, 8)
        assert replace(point, source=whole.source, rates=whole.rates, scaled=whole.scaled) == whole
        assert "LoRA" in point.source
    assert starting_point("dpo", "decoder", 135_000_000, True, adapter=True) == DPO
    assert starting_point("classification", "encoder", 22_000_000, adapter=True) == BERT


def test_lists_of_different_lengths_are_not_offered_as_words_and_their_tags() -> None:
    """SciTLDR's sentences of a paper and its summaries, for example."""
    words = [["a", "b"], ["c"]] * 9
    [line] = readings({"one": words, "other": [["X", "Y"], ["Z"]] * 9}, ["tagging"])
    assert line == "columns={'tokens': 'one', 'tags': 'other'} for the tags of words"
    assert readings({"one": words, "other": [["X"], ["Z"]] * 9}, ["tagging"]) == []

"""The size and the rate of a fine-tuning without a recipe, by the rows that there are and the model."""

import pytest

from tfkit.recipe.starting_points import BERT, GPT, SMOLLM2, T5, TUNED, starting_point


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [
        (1, 8, 10),
        (40, 8, 10),  # 50 steps
        (227, 8, 2),  # 57 steps
        (400, 16, 2),
        (799, 16, 2),
        (800, 32, 2),
        (3_199, 64, 2),
        (3_200, 128, 2),
        (10**9, 128, 2),
    ],
)
def test_a_small_set_gets_small_batches_and_more_epochs(rows: int, batch_size: int, epochs: int) -> None:
    assert SMOLLM2.batch_for(rows) == batch_size
    assert SMOLLM2.epochs_for(rows, batch_size) == epochs


@pytest.mark.parametrize(("row_tokens", "batch_size"), [(64, 32), (256, 32), (1024, 8), (8192, 1), (100_000, 1)])
def test_a_step_on_text_has_at_most_8192_tokens(row_tokens: int, batch_size: int) -> None:
    assert GPT.batch_for(10**6, row_tokens) == batch_size


def test_a_rate_for_large_batches_falls_with_the_square_root_of_the_batch() -> None:
    assert [SMOLLM2.lr(135_000_000, size) for size in (128, 32, 8, 512)] == [1e-3, 5e-4, 2.5e-4, 1e-3]
    assert [GPT.lr(124_000_000, size) for size in (8, 32)] == [6.25e-5, 6.25e-5]


def test_a_small_encoder_learns_faster_than_bert_and_a_tuned_model_slower() -> None:
    assert [BERT.lr(parameters, 32) for parameters in (4_000_000, 22_700_000, 110_000_000, 340_000_000)] == [3e-4, 3e-4, 3e-5, 2e-5]
    assert (starting_point("chat", "decoder", tuned=True), starting_point("chat", "decoder")) == (TUNED, SMOLLM2)
    assert TUNED.lr(135_000_000, 8) == 5e-5
    assert [starting_point("classification", stacks, tuned=True) for stacks in ("encoder", "decoder", "both")] == [BERT, GPT, T5]

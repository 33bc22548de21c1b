"""How long a run is, and in what pieces: what the recipe leaves to be worked out."""

import pytest
from tiny_training import batches, fresh, stepper, stream

from tfkit.cli.training_parts import state_tensors
from tfkit.cli.training_plan import batch_sizes, most_rows, planned_bytes, total_steps
from tfkit.data import PackedRows
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema import (
    AdafactorSection,
    AdamWSection,
    DataSection,
    ModelSection,
    MuonSection,
    OptimizerSection,
    Recipe,
    SourceSection,
    TrainingSection,
)
from tfkit.training.memory import largest_divisor

ROWS = PackedRows([(stream(), 1.0)], 12, seed=1)


def recipe(**training: object) -> Recipe:
    data = DataSection(train=[SourceSection(stdlib=True)])
    return Recipe(model=ModelSection(preset="gpt2"), data=data, training=TrainingSection.model_validate(training))


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"steps": 7}, 7),
        ({"tokens": 12 * 8, "batch_size": 8}, 1),
        ({"tokens": 12 * 8 + 1, "batch_size": 8}, 2),  # rounded up to whole steps
        ({"epochs": 1, "batch_size": 1}, len(ROWS)),
        ({"epochs": 2, "batch_size": len(ROWS)}, 2),
        ({"epochs": 0.001, "batch_size": 8}, 1),
    ],
)
def test_length(training: dict[str, object], steps: int) -> None:
    wanted = recipe(**training)
    assert total_steps(wanted, ROWS, batch_sizes(wanted, ROWS)) == steps


@pytest.mark.parametrize(
    ("batch_size", "context_length", "expected"),
    [
        (32, 256, 32),  # 8,192 tokens
        (128, 256, 64),  # 16,384
        (96, 256, 48),  # the largest divisor of 96 up to 64
        (97, 256, 1),  # a prime
        (6, 16_384, 1),
        (6, 100_000, 1),
    ],
)
def test_a_micro_batch_is_a_divisor_of_at_most_16384_tokens(batch_size: int, context_length: int, expected: int) -> None:
    assert largest_divisor(batch_size, most_rows(context_length)) == expected


@pytest.mark.parametrize(
    "optimizer", [AdamWSection(), AdafactorSection(kind="adafactor"), MuonSection(kind="muon")], ids=lambda one: one.kind
)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_planned_bytes_are_those_of_the_tensors_that_are_saved(optimizer: OptimizerSection, decay: float | None) -> None:
    """Step counters aside: one number for each parameter."""
    taking = stepper(fresh(), section=optimizer, ema_decay=decay)
    taking.take(1, batches(CausalLM(), 4), 1.0)
    saved = state_tensors(taking.weights, taking.optimizer)
    numbers = sum(tensor.numel() for tensor in taking.weights.result.values())
    numbers += sum(tensor.numel() for name, tensor in saved.items() if not name.endswith("/step"))
    wanted = recipe(steps=9, ema_decay=decay).model_copy(update={"optimizer": optimizer})
    assert planned_bytes(wanted, taking.model) == 4 * numbers * (wanted.checkpoint.keep + 2)

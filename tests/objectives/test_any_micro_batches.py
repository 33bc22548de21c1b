"""Real steps of 8 rows have the same losses and weights for 1, 2, 4 and 8 micro-batches, whatever the objective."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from device_cases import CASES, Task, chat, family_config
from tiny_examples import model, stepper_of

from tfkit.data import ExampleRows


def packed_chat(folder: Path) -> Task:
    task = chat(folder)
    return replace(task, rows=ExampleRows([(stored, 1.0) for stored in task.rows.sets], 1, batch_size=8, packed_length=128))


TASKS: dict[str, tuple[str, Callable[[Path], Task]]] = {case.partition("-")[2]: made for case, made in CASES.items()}
TASKS["packed_chat"] = ("llama", packed_chat)
EQUAL = ("one_document", "span_corruption")  # each row has as many tokens and targets


def steps(family: str, task: Task, size: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses of three steps in micro-batches of this size, and the weights after them."""
    trained = model(family_config(family, task.changes).model_dump() | {"init": {"std": 0.1}})
    # With AdamW's usual eps, an entry whose gradient is all rounding moves by a whole learning rate, in either direction.
    stepper = stepper_of(trained, task.objective, lr=3e-3, eps=1e-3)
    losses = [stepper.take(step + 1, task.batches(step, size), 1.0).loss for step in range(3)]
    return losses, {name: tensor.detach() for name, tensor in trained.named_parameters()}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", TASKS)
def test_losses_and_weights_do_not_depend_on_the_micro_batch(name: str, tmp_path: Path) -> None:
    family, make = TASKS[name]
    task = make(tmp_path)
    sizes = {(batch.input_ids.shape, *task.objective.counts(batch).values()) for batch in task.batches(0, 1)}
    assert len(sizes) > 1 or name in EQUAL
    losses, weights = steps(family, task, 8)
    for size in (1, 2, 4):
        found, found_weights = steps(family, task, size)
        assert found == pytest.approx(losses, rel=5e-7)  # a float32 has steps of 1e-7
        for parameter, tensor in weights.items():
            torch.testing.assert_close(found_weights[parameter], tensor, atol=1e-6, rtol=0, msg=parameter)

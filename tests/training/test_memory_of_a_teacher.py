"""The memory that a teacher adds to a step: the estimate compared with real steps, and nothing for its weights, which exist anyway."""

import os
import subprocess
import sys

import peak_of_a_taught_step
import pytest
from peak_of_a_step import batch

from tfkit.objectives.causal_lm import CausalLM
from tfkit.training.loss_module import LossModule
from tfkit.training.memory import companion_bytes_per_row, step_bytes_per_row


@pytest.mark.slow  # a fresh process each: in this one, memory that was freed would be taken again
@pytest.mark.parametrize("kind", ["plain", "capped"])
def test_an_estimate_holds_for_a_real_step_with_a_teacher(kind: str) -> None:
    """A row's estimate against what 32 more rows really take at the peak."""
    taking = peak_of_a_taught_step.made(kind)
    estimate = step_bytes_per_row(taking.loss_module, batch("gpt2", 1)) + companion_bytes_per_row(taking.objective, 256, 4)
    program = [sys.executable, peak_of_a_taught_step.__file__, kind]
    paths = os.pathsep.join(path for path in sys.path if path)
    found = subprocess.run(program, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    measured = int(found.stdout) / 32
    assert measured < estimate < 2.2 * measured, (estimate, measured)


def test_the_teachers_weights_are_not_counted_for_each_row() -> None:
    """Autograd holds the hidden states that its logits are made of, and they alone: 256 positions of 768 numbers, with the margin."""
    taking = peak_of_a_taught_step.made("plain")
    alone = step_bytes_per_row(LossModule(taking.model, CausalLM()), batch("gpt2", 1))
    assert 0 < step_bytes_per_row(taking.loss_module, batch("gpt2", 1)) - alone < 2 * 256 * 768 * 4

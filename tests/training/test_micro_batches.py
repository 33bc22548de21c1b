"""A step does not depend on how many targets each of its micro-batches has; objectives/test_any_micro_batches.py has whole trainings."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import batches, fresh, stepper

from tfkit.errors import UnhealthyError
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import IGNORED, Batch

MASKS = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=8, max_size=8).filter(lambda rows: any(map(any, rows)))


@settings(max_examples=25, deadline=None)
@given(MASKS, st.sampled_from([1, 2, 4]))
def test_any_pattern_of_targets_gives_the_gradient_of_the_whole(mask: list[list[bool]], size: int) -> None:
    """Rows without any target too: a mean of means would divide by zero there, and weigh the others wrongly."""
    objective = CausalLM()
    ids = torch.randint(53, (8, 12), generator=torch.Generator().manual_seed(2))
    labels = torch.where(torch.tensor(mask), ids.roll(-1, 1), IGNORED)
    whole, parts = stepper(fresh()), stepper(fresh())
    one = whole.take(1, [Batch(ids, labels)], 0.0)  # at a learning rate of 0: only the gradient counts
    many = parts.take(1, [Batch(ids[i : i + size], labels[i : i + size]) for i in range(0, 8, size)], 0.0)
    assert many.loss == pytest.approx(one.loss, abs=1e-5)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert many.tokens == one.tokens == 96
    assert objective.counts(Batch(ids, labels))["lm"] == sum(map(sum, mask))


def test_a_step_without_any_target_is_refused_before_it_divides_by_zero() -> None:
    ids = torch.zeros(2, 12, dtype=torch.long)
    with pytest.raises(UnhealthyError, match="step 7: no token has a target for lm"):
        stepper(fresh()).take(7, [Batch(ids, torch.full_like(ids, IGNORED))], 1.0)


def test_dropout_is_a_function_of_seed_step_and_micro_batch() -> None:
    objective = CausalLM()
    dropout = {"embedding": 0.2, "attention": 0.1, "residual": 0.3}

    def loss(step: int, seed: int = 1, noise: int = 0) -> float:
        taking = stepper(fresh(dropout=dropout))
        taking.seed = seed
        torch.manual_seed(noise)  # what ran before must not matter
        return taking.take(step, batches(objective, 4), 0.0).loss

    assert loss(5) == loss(5, noise=77)
    assert len({loss(5), loss(6), loss(5, seed=2)}) == 3
    row = batches(objective, 8)[0]
    twice = [Batch(row.input_ids[:1], row.labels[:1], None if row.document_ids is None else row.document_ids[:1])] * 2
    taking = stepper(fresh(dropout=dropout))
    alone, both = taking.take(1, twice[:1], 0.0).loss, taking.take(1, twice, 0.0).loss
    assert alone != both  # the second micro-batch of the same row drops other units

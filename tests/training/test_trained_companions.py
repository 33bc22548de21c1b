"""A model that is trained beside that of the run: as if it were trained alone, at a rate of its own, restored and checked with the run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_plan import recipe
from tiny_training import LLAMA, batches, bits, fresh, stepper
from torch import Tensor

from tfkit.engine.assembly.components import place_companions
from tfkit.engine.assembly.memory_plan import disk_bytes, run_memory
from tfkit.engine.assembly.training_state import COMPANIONS, companion_tensors, load_companion_tensors, state_tensors
from tfkit.model.transformer import Transformer
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.companion import Companion
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.optimizer_sections import AdamWSection, MuonSection, OptimizerSection
from tfkit.recipe.schema.sections import Recipe
from tfkit.training.health import UnhealthyStepError
from tfkit.training.loss_module import LossModule
from tfkit.training.memory import ModelBytes, Units, step_bytes_per_row
from tfkit.training.optimizer import with_peak_lr
from tfkit.training.replay import find_first_bad, weights_sha256
from tfkit.training.step import Stepper

CPU = torch.device("cpu")
SECTION = AdamWSection(lr=1e-2, clip_norm=0.5)


class Both(CausalLM):
    """Two language models on the same rows, each with a loss of its own."""

    terms: Mapping[str, float] = {"lm": 1.0, "value": 1.0}

    def __init__(self, value: Companion):
        super().__init__()
        self.value = value

    @property
    def companions(self) -> Sequence[Companion]:
        return (self.value,)

    def counts(self, batch: Batch) -> dict[str, int]:
        return dict.fromkeys(("lm", "value"), super().counts(batch)["lm"])

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        return {"lm": super().loss(model, batch)["lm"], "value": super().loss(self.value.model, batch)["lm"]}


def beside(dtype: torch.dtype = torch.float32, section: OptimizerSection = SECTION) -> Stepper:
    """Return a GPT-2 that is trained with a Llama beside it, at a third of its rate."""
    objective = Both(Companion("value", fresh(LLAMA), "made", "a" * 64, trained=True, lr=section.lr / 3))
    wanted = recipe(steps=9).model_copy(update={"optimizer": section})
    companions = place_companions(wanted, objective, CPU, dtype)
    taking = stepper(fresh(), objective=objective, section=section, dtype=dtype)
    return Stepper(taking.loss_module, taking.weights, taking.optimizer, device=CPU, seed=1, companions=companions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_model_is_trained_as_if_it_were_alone(dtype: torch.dtype) -> None:
    """The same bits: gradients are clipped, and the learning rate is scheduled, for each model by itself."""
    both, policy = beside(dtype), stepper(fresh(), section=SECTION, dtype=dtype)
    value = stepper(fresh(LLAMA), section=with_peak_lr(SECTION, SECTION.lr / 3), dtype=dtype)
    for step, factor in ((1, 0.5), (2, 1.0), (3, 0.25)):
        rows = batches(CausalLM(), 4, step)
        report, one, other = (taking.take(step, rows, factor) for taking in (both, policy, value))
        assert (report.losses["lm"], report.grad_norm, report.lr) == (one.loss, one.grad_norm, one.lr)
        assert (report.losses["value"], report.companion_norms["value"]) == (other.loss, other.grad_norm)
        assert report.all_observed == {"value_grad_norm": other.grad_norm}
        assert report.grad_norm > 0.5  # so both were clipped
        assert other.grad_norm > 0.5
    assert bits(dict(both.weights.master)) == bits(dict(policy.weights.master))
    assert bits(dict(both.companions["value"].weights.master)) == bits(dict(value.weights.master))
    assert bits(dict(both.companions["value"].model.named_parameters())) == bits(dict(value.model.named_parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_restored_with_its_moments(dtype: torch.dtype) -> None:
    whole, begun, again = beside(dtype), beside(dtype), beside(dtype)
    for taking in (whole, begun):
        for step in (1, 2):
            taking.take(step, batches(CausalLM(), 4, step), 1.0)
    saved = {name: tensor.clone() for name, tensor in companion_tensors(begun.companions).items()}
    assert {name.split("/")[1] for name in saved} == {"value"}
    load_companion_tensors(again.companions, saved)
    again.weights.load(begun.weights.master)
    again.optimizer.load_state(begun.optimizer.state())
    assert whole.take(3, batches(CausalLM(), 4, 3), 1.0) == again.take(3, batches(CausalLM(), 4, 3), 1.0)
    assert bits(companion_tensors(whole.companions)) == bits(companion_tensors(again.companions))
    assert weights_sha256(whole) == weights_sha256(again) != weights_sha256(begun)


def test_a_bad_gradient_of_it_changes_no_weight_and_is_found() -> None:
    taking = beside()
    working = taking.companions["value"].weights.working
    name = [name for name in working if name.endswith("norm.weight")][-1]
    parameter = working[name]
    before = bits(dict(taking.weights.master))
    with torch.no_grad():
        parameter.fill_(3e38)  # finite, but no output of it is
    rows = batches(CausalLM(), 4)
    with pytest.raises(UnhealthyStepError, match=r"the loss is nan and the gradient's norm .*, that of the value nan"):
        taking.take(1, rows, 1.0)
    taking.drop_gradients()
    assert all(one.grad is None for one in taking.companions["value"].model.parameters())
    assert bits(dict(taking.weights.master)) == before
    found = find_first_bad(taking, rows, 1)
    assert (found.where, found.module.startswith("value/")) == ("forward", True)
    with torch.no_grad():
        parameter.fill_(torch.inf)
    assert find_first_bad(taking, rows, 1) == replace(found, where="weights", module=f"value/{name}")


def test_what_it_takes_of_disk_and_memory() -> None:
    taking = beside()
    taking.take(1, batches(CausalLM(), 4), 1.0)
    value = taking.companions["value"]
    wanted: Recipe = recipe(steps=9).model_copy(update={"optimizer": SECTION})
    saved = state_tensors(taking.weights, taking.optimizer, taking.companions)
    numbers = sum(tensor.numel() for name, tensor in saved.items() if name.startswith(COMPANIONS))
    more = disk_bytes(wanted, taking.model, taking.objective) - disk_bytes(wanted, taking.model, CausalLM())
    assert more == 4 * numbers * (wanted.checkpoint.keep + 2)
    parameters = [parameter.numel() for parameter in value.model.parameters()]
    assert numbers == 3 * sum(parameters) + len(parameters)  # each has a counter of steps


def test_further_models_are_planned() -> None:
    """Weights, gradients and moments; of ranks that share them parts, with what is gathered of a model that is read in the steps."""
    taking = beside()
    wanted: Recipe = recipe(steps=9).model_copy(update={"optimizer": SECTION})
    (trained,) = taking.objective.companions
    policy, value, fp32, bf16 = taking.model, trained.model, torch.float32, torch.bfloat16
    numbers, around = sum(one.numel() for one in value.parameters()), Units.of(dict(value.named_parameters())).root
    counters = 4 * len([*value.parameters()])
    block = sum(one.numel() for one in value.decoder.blocks[0].parameters())

    def planned(objective: Any, dtype: torch.dtype, shards: int = 1) -> Any:
        return run_memory(wanted, objective, policy, dtype, shards=shards).further

    def sizes(planned: ModelBytes) -> tuple[int, int]:
        return planned.held, planned.in_step

    def about(*sizes: int) -> Any:
        return pytest.approx(sizes, rel=0.01)  # an odd row is in the first part

    assert sizes(planned(taking.objective, fp32)) == (12 * numbers + counters, 4 * numbers)
    assert sizes(planned(taking.objective, bf16)) == (14 * numbers + counters, 4 * numbers)
    assert sizes(planned(taking.objective, bf16, 2)) == about(6 * numbers, 2 * numbers + 2 * (block + 2 * around))
    frozen: Any = SimpleNamespace(companions=[replace(trained, trained=False)], rollouts=None, reference_use="none")
    assert sizes(planned(frozen, bf16)) == (2 * numbers, 0)
    assert sizes(planned(frozen, bf16, 2)) == about(numbers, 2 * (block + around))
    sampled: Any = SimpleNamespace(companions=frozen.companions, rollouts="some", reference_use="throughout")
    own = sum(one.numel() for one in policy.parameters())
    assert sizes(planned(sampled, fp32, 2)) == about(2 * (numbers + own), 0)
    assert sizes(planned(sampled, fp32)) == (4 * (numbers + own), 0)


def test_the_activations_that_it_keeps_are_measured_with_those_of_the_model() -> None:
    taking, (row,) = beside(), batches(CausalLM(), 1, batch_size=1)
    alone = [step_bytes_per_row(LossModule(model, CausalLM()), row) for model in (taking.model, taking.companions["value"].model)]
    together = step_bytes_per_row(taking.loss_module, row)
    assert max(alone) < together <= sum(alone)


def test_a_second_rate_of_an_optimizer_changes_by_the_same_factor() -> None:
    found = with_peak_lr(MuonSection(kind="muon", lr=1e-2, adamw_lr=4e-3), 5e-3)
    assert (found.lr, found.adamw_lr) == (5e-3, pytest.approx(2e-3))
    only = with_peak_lr(MuonSection(kind="muon", lr=1e-2), 5e-3)
    assert (only.lr, only.adamw_lr) == (5e-3, None)

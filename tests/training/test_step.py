"""One step: clipped as it should be, and refused before anything has changed if a number is not finite."""

import math

import pytest
import torch
from tiny_training import GPT2, batches, bits, fresh, stepper

from tfkit.errors import Stopped, UnhealthyError
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.optimizer_sections import AdamWSection, MuonSection

OBJECTIVE = CausalLM()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("section", [AdamWSection(), MuonSection(kind="muon")], ids=["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_unhealthy_step_changes_nothing(section: AdamWSection | MuonSection, dtype: torch.dtype, value: float) -> None:
    """After two good steps, so that there is a state to be spoilt. Exit code 6."""
    taking = stepper(fresh(GPT2), section=section, dtype=dtype)
    for step in (1, 2):
        taking.take(step, batches(OBJECTIVE, 4, step), 1.0)
    with torch.no_grad():
        for weights in (taking.weights.master, taking.weights.working):
            weights["decoder.norm.weight"][3] = value
    everything = (taking.weights.master, taking.weights.working, taking.optimizer.state())
    before = [bits(tensors) for tensors in everything]
    with pytest.raises(UnhealthyError, match=r"step 3: the loss is (inf|nan) and the gradient's norm nan; no weight was changed") as caught:
        taking.take(3, batches(OBJECTIVE, 4, 3), 1.0)
    assert caught.value.exit_code == 6
    assert "optimizer.lr" in str(caught.value)
    assert [bits(tensors) for tensors in everything] == before


@pytest.mark.parametrize("micro_batch", [2, 3])
def test_a_step_that_is_stopped_leaves_no_trace(micro_batch: int) -> None:
    """Its gradients are dropped, so that the next step is as if it had never begun. It is not asked before the first micro-batch."""
    taking, other = stepper(fresh(GPT2), dtype=torch.bfloat16), stepper(fresh(GPT2), dtype=torch.bfloat16)
    asked = iter(range(2, 9))
    with pytest.raises(Stopped, match=f"within step 1, before micro-batch {micro_batch} of 4"):
        taking.take(1, batches(OBJECTIVE, 2), 1.0, should_stop=lambda: next(asked) == micro_batch)
    assert taking.take(1, batches(OBJECTIVE, 2, 1), 1.0) == other.take(1, batches(OBJECTIVE, 2, 1), 1.0)
    assert bits(taking.weights.master) == bits(other.weights.master)


def test_a_gradient_can_be_infinite_where_the_loss_is_not() -> None:
    taking = stepper(fresh(GPT2))
    taking.model.decoder.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    before = bits(taking.weights.master)
    with pytest.raises(UnhealthyError, match=r"the loss is \d+\.\d+ and the gradient's norm (inf|nan)"):
        taking.take(1, batches(OBJECTIVE, 4), 1.0)
    assert bits(taking.weights.master) == before


def _gradient(clip_norm: float | None) -> tuple[float, float]:
    """The norm that was reported, and the norm of what reached the optimizer."""
    taking = stepper(fresh(GPT2), section=AdamWSection(clip_norm=clip_norm))
    reached = []

    def step(lr_factor: float, factor: float) -> None:
        reached.append(factor * float(torch.stack([one.grad.norm() for one in taking.weights.master.values()]).norm()))

    taking.optimizer.step = step
    return taking.take(1, batches(OBJECTIVE, 4), 1.0).grad_norm, reached[0]


def test_clipping() -> None:
    whole, kept = _gradient(None)
    assert kept == pytest.approx(whole)
    assert _gradient(whole / 10) == (pytest.approx(whole), pytest.approx(whole / 10))  # the log has the norm before
    assert _gradient(whole * 10) == (pytest.approx(whole), pytest.approx(whole))


def test_the_report() -> None:
    taking = stepper(fresh(GPT2), section=AdamWSection(lr=3e-2))
    report = taking.take(1, batches(OBJECTIVE, 4), 0.25)
    assert report.lr == pytest.approx(7.5e-3)
    assert report.losses == {"lm": report.loss}
    assert report.tokens == 8 * 12
    with torch.no_grad():
        (whole,) = batches(OBJECTIVE, 8)
        expected = float(OBJECTIVE.loss(fresh(GPT2), whole)["lm"]) / OBJECTIVE.counts(whole)["lm"]
    assert report.loss == pytest.approx(expected, rel=1e-6)


def test_weights_are_used_only_from_the_forward_of_the_loss_module_on() -> None:
    """As sharded weights are: gathered by a hook of the module that the step calls, and not there before."""
    plain, taking = stepper(fresh(GPT2)), stepper(fresh(GPT2))
    assert [name for name, _ in taking.model.named_parameters()] == list(taking.weights.master)
    whole = {name: parameter.detach().clone() for name, parameter in taking.model.named_parameters()}

    def gather(module: torch.nn.Module, inputs: object) -> None:
        for name, parameter in taking.model.named_parameters():
            parameter.data.copy_(whole[name])

    taking.loss_module.register_forward_pre_hook(gather)
    for parameter in taking.model.parameters():
        parameter.data.fill_(math.nan)
    assert taking.take(1, batches(OBJECTIVE, 4), 1.0) == plain.take(1, batches(OBJECTIVE, 4), 1.0)
    assert bits(taking.weights.master) == bits(plain.weights.master)

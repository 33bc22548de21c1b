"""bf16 weights beside an fp32 master: small steps are kept, gradients are added in fp32, nothing is held twice. And their mean."""

import contextlib

import pytest
import torch
from tiny_training import GPT2, LLAMA, batches, bits, fresh, stepper
from torch import nn

from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.training.health import UnhealthyStepError
from tfkit.training.precision import HOLDS_NARROW_GRADIENTS, Weights


class Scale(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


def test_the_master_keeps_steps_that_the_working_copy_rounds_away() -> None:
    model = Scale()
    weights = Weights(model, torch.bfloat16)
    optimizer = torch.optim.SGD(weights.master.values(), lr=1.0)
    seen = []
    for _ in range(40):
        (model.weight * 1e-4).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        weights.after_step()
        seen.append(float(model.weight.detach()))
    assert seen[0] == 1.0  # 1 - 1e-4 in bf16
    assert seen[-1] == 1 - 2**-8  # but 40 of them are not lost
    assert abs(float(weights.master["weight"].detach()) - (1 - 40e-4)) < 1e-5
    assert model.weight.dtype == torch.bfloat16


def test_what_is_frozen_has_no_master_where_no_checkpoint_holds_it() -> None:
    """As of an adapter; what is trained has one, and the steps are those of the run that keeps all."""
    seen = []
    for whole in (True, False):
        model = nn.Sequential(Scale(), Scale())
        model[0].weight.requires_grad_(False)
        model[0].weight.data.fill_(1.01)
        weights = Weights(model, torch.bfloat16, 0.9, whole=whole)
        assert {name: p.dtype == torch.float32 for name, p in weights.master.items()} == {"0.weight": whole, "1.weight": True}
        assert (weights.master["0.weight"] is weights.working["0.weight"]) == (not whole)
        (model[0].weight * model[1].weight).sum().backward()
        torch.optim.SGD(weights.trained.values(), lr=0.3).step()
        weights.after_step()
        assert weights.finite()
        seen.append([float(weights.result["1.weight"].detach()), float(model[0].weight), float(model[1].weight.detach())])
    assert seen[0] == seen[1]


def test_gradients_are_added_up_in_fp32() -> None:
    model = Scale()
    weights = Weights(model, torch.bfloat16)
    for size in (1.0, 2**-9, 2**-9):  # in bf16, 1 + 2**-9 is 1
        (model.weight * size).sum().backward()
        assert model.weight.grad is None
    gradient = weights.master["weight"].grad
    assert gradient.dtype == torch.float32
    assert float(gradient) == 1 + 2**-8


@pytest.mark.skipif(not HOLDS_NARROW_GRADIENTS, reason="before torch 2.10 a gradient has its parameter's type")
@pytest.mark.parametrize("clip_norm", [None, 1e-3])
def test_the_gradient_of_one_micro_batch_is_widened_in_the_update(clip_norm: float | None) -> None:
    """It is kept in bf16, and the step is that of its values in fp32."""
    assert _steps_of_one_micro_batch(clip_norm, widened=False) == _steps_of_one_micro_batch(clip_norm, widened=True)


def _steps_of_one_micro_batch(clip_norm: float | None, *, widened: bool) -> list[object]:
    """Take two steps, of gradients that are widened before or within the update."""
    taking = stepper(fresh(GPT2), section=AdamWSection(clip_norm=clip_norm, lr=1e-2), dtype=torch.bfloat16)
    clip = taking.weights.clip_gradients

    def clip_gradients(limit: float | None) -> float:
        norm = clip(limit)  # whose sums have one order for bf16, and another for fp32
        for parameter in taking.weights.master.values():
            assert parameter.grad.dtype == torch.bfloat16
            parameter.grad = parameter.grad.float() if widened else parameter.grad
        return norm

    taking.weights.clip_gradients = clip_gradients
    losses = [taking.take(step + 1, batches(CausalLM(), 8, step), 1.0).loss for step in range(2)]
    return [*losses, bits(taking.weights.master), bits(taking.optimizer.state())]


def test_no_gradient_stays_with_the_working_weights() -> None:
    objective = CausalLM()
    taking = stepper(fresh(LLAMA), dtype=torch.bfloat16)
    held = []
    step = taking.optimizer.step
    taking.optimizer.step = lambda *factors: held.append(_held(taking.weights)) or step(*factors)
    taking.take(1, batches(objective, 2), 1.0)
    assert held == [(0, len(taking.weights.master))]  # before the update
    assert _held(taking.weights) == (0, 0)
    assert {parameter.dtype for parameter in taking.model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in taking.weights.master.values()} == {torch.float32}


def _held(weights: Weights) -> tuple[int, int]:
    """Gradients on the working and on the master weights."""
    return tuple(sum(p.grad is not None for p in part.values()) for part in (weights.working, weights.master))


def test_a_tied_embedding_is_one_weight_with_the_gradient_of_both_uses() -> None:
    """Against autograd in fp32 on the same rounded weights."""
    objective = CausalLM()
    (batch,) = batches(objective, 8)
    model = fresh(GPT2)
    reference = fresh(GPT2)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16())
    weights = Weights(model, torch.bfloat16)
    assert sum(name.startswith(("embedding.tokens", "head")) for name in weights.master) == 1
    assert sum(p.numel() for p in weights.master.values()) == sum(p.numel() for p in reference.parameters())
    for either in (model, reference):
        objective.loss(either, batch)["lm"].div(objective.counts(batch)["lm"]).backward()
    found, expected = weights.master["embedding.tokens.weight"].grad, reference.embedding.tokens.weight.grad
    assert float((found - expected).norm() / expected.norm()) < 0.03
    assert model.head.weight is model.embedding.tokens.weight


def test_bf16_trains_as_fp32_does() -> None:
    objective = CausalLM()
    curves = []
    for dtype in (torch.float32, torch.bfloat16):
        taking = stepper(fresh(GPT2, init={"std": 0.1}), section=AdamWSection(lr=3e-3), dtype=dtype)
        curves.append([taking.take(step + 1, batches(objective, 4, step % 3), 1.0).loss for step in range(12)])
    assert torch.allclose(torch.tensor(curves[0]), torch.tensor(curves[1]), rtol=0.01)
    assert curves[1][-1] < curves[1][0] - 0.1


def test_in_fp32_there_is_one_copy() -> None:
    model = fresh(GPT2)
    weights = Weights(model, torch.float32)
    weights.after_step()
    assert weights.master is weights.working
    assert all(weights.master[name] is parameter for name, parameter in model.named_parameters())


def test_the_mean_is_that_of_the_taken_steps() -> None:
    """Each step's weights 0.8 times as heavy as the next one's, in float64; without the start and a skipped step."""
    for dtype in (torch.float32, torch.bfloat16):
        taking = stepper(fresh(GPT2), dtype=dtype, ema_decay=0.8)
        history = []
        for step in range(5):
            if step == 2:
                with pytest.raises(UnhealthyStepError):
                    taking.take(step + 1, batches(CausalLM(), 4, step), 1.0, highest_loss=0.0)
                taking.drop_gradients()
                continue
            taking.take(step + 1, batches(CausalLM(), 4, step), 1.0)
            history.append({name: parameter.detach().double().clone() for name, parameter in taking.weights.master.items()})
        assert taking.weights.mean_steps == 4
        shares = [0.8**3, 0.8**2, 0.8, 1.0]
        for name, mean in taking.weights.mean.items():
            expected = sum(share * weights[name] for share, weights in zip(shares, history, strict=True)) / sum(shares)
            assert mean.dtype == torch.float32
            torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_at_work_leaves_the_training_as_it_is(dtype: torch.dtype) -> None:
    objective = CausalLM()
    taking, plain = (stepper(fresh(GPT2), dtype=dtype, ema_decay=decay) for decay in (0.7, None))
    (batch,) = batches(objective, 8)
    for step in range(4):
        with taking.weights.use_result(), torch.no_grad():
            for name, parameter in taking.model.named_parameters():
                assert torch.equal(parameter, taking.weights.result[name].to(dtype)), name
            objective.loss(taking.model.eval(), batch)
        with contextlib.suppress(KeyError), taking.weights.use_result():
            raise KeyError  # an evaluation that is stopped
        assert taking.take(step + 1, batches(objective, 4, step), 1.0) == plain.take(step + 1, batches(objective, 4, step), 1.0)
    assert bits(taking.weights.working) == bits(plain.weights.working)
    assert bits(taking.weights.master) == bits(plain.weights.master) != bits(taking.weights.mean)
    assert taking.model.head.weight is taking.model.embedding.tokens.weight

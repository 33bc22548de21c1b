"""bf16 weights beside an fp32 master: small steps are kept, gradients are added in fp32, nothing is held twice."""

import torch
from tiny_training import GPT2, LLAMA, batches, fresh, stepper
from torch import nn

from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema import AdamWSection
from tfkit.training.precision import Weights


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
        weights.stepped()
        seen.append(float(model.weight.detach()))
    assert seen[0] == 1.0  # 1 - 1e-4 in bf16
    assert seen[-1] == 1 - 2**-8  # but 40 of them are not lost
    assert abs(float(weights.master["weight"].detach()) - (1 - 40e-4)) < 1e-5
    assert model.weight.dtype == torch.bfloat16


def test_gradients_are_added_up_in_fp32() -> None:
    model = Scale()
    weights = Weights(model, torch.bfloat16)
    for size in (1.0, 2**-9, 2**-9):  # in bf16, 1 + 2**-9 is 1
        (model.weight * size).sum().backward()
        assert model.weight.grad is None
    gradient = weights.master["weight"].grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert float(gradient) == 1 + 2**-8


def test_no_gradient_stays_with_the_working_weights() -> None:
    objective = CausalLM()
    taking = stepper(fresh(LLAMA), dtype=torch.bfloat16)
    held = []
    taking.optimizer.step, step = lambda factor: held.append(_held(taking.weights)) or step(factor), taking.optimizer.step  # type: ignore[method-assign, func-returns-value]
    taking.take(1, batches(objective, 2), 1.0)
    assert held == [(0, len(taking.weights.master))]  # before the update
    assert _held(taking.weights) == (0, 0)
    assert {parameter.dtype for parameter in taking.model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in taking.weights.master.values()} == {torch.float32}


def _held(weights: Weights) -> tuple[int, int]:
    """Gradients on the working and on the master weights."""
    return tuple(sum(p.grad is not None for p in part.values()) for part in (weights.working, weights.master))  # type: ignore[return-value]


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
    assert found is not None
    assert expected is not None
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


def test_loading_rounds_the_working_copy_and_keeps_the_master_exact() -> None:
    model = fresh(GPT2)
    weights = Weights(model, torch.bfloat16)
    tensors = {name: torch.full_like(parameter, 1.0001) for name, parameter in weights.master.items()}
    weights.load(tensors)
    assert all(torch.equal(parameter, tensors[name]) for name, parameter in weights.master.items())
    assert all(bool((parameter == 1.0).all()) for parameter in model.parameters())


def test_in_fp32_there_is_one_copy() -> None:
    model = fresh(GPT2)
    weights = Weights(model, torch.float32)
    weights.stepped()
    assert weights.master is weights.working
    assert all(weights.master[name] is parameter for name, parameter in model.named_parameters())

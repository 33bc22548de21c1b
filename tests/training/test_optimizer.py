"""AdamW and Muon: what they do to which parameters, and their state, there and back bit for bit."""

import pytest
import torch
from tiny_training import GPT2, LLAMA, batches, bits, fresh, stepper
from torch import Tensor, nn

from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema import AdamWSection, MuonSection
from tfkit.training.optimizer import Optimizer

MUON = MuonSection(kind="muon", lr=1e-2)
KINDS = pytest.mark.parametrize("section", [AdamWSection(lr=1e-2), MUON], ids=["adamw", "muon"])


def with_gradients(section: AdamWSection | MuonSection) -> tuple[dict[str, nn.Parameter], Optimizer]:
    """The parameters of a model with the gradient of one batch."""
    model, objective = fresh(LLAMA), CausalLM()
    optimizer = Optimizer(dict(model.named_parameters()), section)
    (batch,) = batches(objective, 8)
    objective.loss(model, batch)["lm"].div(90).backward()
    return dict(model.named_parameters()), optimizer


def values(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def test_muon_turns_block_matrices_by_an_orthogonal_update() -> None:
    """The singular values of an update are about one, times AdamW's usual size: 0.2 sqrt(max(rows, columns))."""
    section = MuonSection(kind="muon", lr=1e-2, weight_decay=0.0, momentum=0.0)
    parameters, optimizer = with_gradients(section)
    before = values(parameters)
    optimizer.step(0.5)
    inside = [name for name in parameters if ".blocks." in name and parameters[name].dim() == 2]
    assert len(inside) == 2 * 7
    for name in inside:
        update = (before[name] - parameters[name].detach()) / (0.5e-2 * 0.2 * max(before[name].shape) ** 0.5)
        found = torch.linalg.svdvals(update)
        assert found.max() < 1.3, name  # five Newton-Schulz steps come this close (Jordan 2024)
        assert found.quantile(0.1) > 0.6, name  # and lift all but the smallest


def test_muon_leaves_the_rest_to_adamw() -> None:
    parameters, optimizer = with_gradients(MUON)
    optimizer.step(1.0)
    plain, reference = with_gradients(AdamWSection(lr=1e-2))
    reference.step(1.0)
    rest = {name for name in parameters if ".blocks." not in name or parameters[name].dim() == 1}
    assert {"embedding.tokens.weight", "head.output.weight", "decoder.norm.weight"} < rest
    for name in parameters:
        assert torch.equal(parameters[name], plain[name]) == (name in rest), name


@KINDS
def test_only_matrices_decay(section: AdamWSection | MuonSection) -> None:
    """With gradients of zero nothing but the decay is left."""
    parameters, optimizer = with_gradients(section)
    before = values(parameters)
    for parameter in parameters.values():
        assert parameter.grad is not None
        parameter.grad.zero_()
    optimizer.step(0.5)
    for name, parameter in parameters.items():
        shrunk = 1 - 0.5e-2 * section.weight_decay if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk, rtol=1e-6, atol=0, msg=name)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_there_and_back(section: AdamWSection | MuonSection, dtype: torch.dtype) -> None:
    """A run that hands its weights and state to a fresh one, and both go on alike to the last bit."""
    objective = CausalLM()
    first = stepper(fresh(GPT2), section=section, dtype=dtype)
    for step in range(3):
        first.take(step + 1, batches(objective, 4, step), 1.0)
    second = stepper(fresh(GPT2, init={"std": 0.1}), section=section, dtype=dtype)
    saved = {name: tensor.clone() for name, tensor in first.optimizer.state().items()}
    second.weights.load({name: tensor.clone() for name, tensor in first.weights.master.items()})
    second.optimizer.load_state(saved)
    assert bits(second.optimizer.state()) == bits(saved)
    reports = [taking.take(4, batches(objective, 4, 3), 0.7) for taking in (first, second)]
    assert reports[0] == reports[1]
    assert bits(first.weights.master) == bits(second.weights.master)
    assert bits(first.weights.working) == bits(second.weights.working)
    assert bits(first.optimizer.state()) == bits(second.optimizer.state())


def test_the_names_of_the_state() -> None:
    parameters, optimizer = with_gradients(MUON)
    optimizer.step(1.0)
    state = optimizer.state()
    assert {name.rpartition("/")[0] for name in state} == parameters.keys()
    assert {name.rpartition("/")[2] for name in state} == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
    assert "decoder.blocks.0.mlp.op.up_proj.weight/momentum_buffer" in state
    assert all(parameter.grad is None for parameter in parameters.values())

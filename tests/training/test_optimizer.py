"""Adam, AdamW, Adafactor and Muon: what they do to which parameters, and their state, there and back bit for bit."""

import gc

import pytest
import torch
import transformers.optimization
from tiny_training import GPT2, LLAMA, batches, bits, fresh, stepper
from torch import Tensor, nn

from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.optimizer_sections import (
    AdafactorSection,
    AdamSection,
    AdamWSection,
    MuonSection,
    OptimizerSection,
    ScheduleSection,
)
from tfkit.training import optimizer as training_optimizer
from tfkit.training.optimizer import Optimizer, state_numel
from tfkit.training.schedule import Schedule

MUON = MuonSection(kind="muon", lr=1e-2)
SECTIONS: dict[str, OptimizerSection] = {
    "adamw": AdamWSection(lr=1e-2),
    "adam": AdamSection(kind="adam", lr=1e-2),
    "bert": AdamWSection(lr=1e-2, bias_correction=False),
    "adafactor": AdafactorSection(kind="adafactor", lr=1e-2, weight_decay=0.1),
    "muon": MUON,
}
KINDS = pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())


def with_gradients(section: OptimizerSection) -> tuple[dict[str, nn.Parameter], Optimizer]:
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


def test_muon_in_float32_is_that_of_pytorch_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over three steps with momentum and decay, of matrices that are tall, wide and square; only bf16's rounding differs."""
    found = []
    for is_native in (True, False):
        monkeypatch.setattr("tfkit.training.optimizer.has_bf16", lambda device, native=is_native: native)
        parameters, optimizer = with_gradients(MUON)
        before = values(parameters)
        for _ in range(3):
            optimizer.step(1.0)
        found.append({name: parameter.detach() - before[name] for name, parameter in parameters.items()})
    assert {key.rpartition("/")[2] for key in optimizer.state()} >= {"momentum_buffer"}
    for name, update in found[0].items():
        assert nn.functional.cosine_similarity(update.flatten(), found[1][name].flatten(), dim=0) > 0.999, name
        assert update.norm() == pytest.approx(float(found[1][name].norm()), rel=0.01), name


def test_muon_with_nothing_inside_the_blocks_or_nothing_else() -> None:
    """As with an adapter, whose factors all lie inside, or with frozen blocks."""
    parameters, _ = with_gradients(MUON)
    inside = {name: p for name, p in parameters.items() if ".blocks." in name and p.dim() == 2}
    outside = {name: p for name, p in parameters.items() if name not in inside}
    before = values(parameters)
    for some in (inside, outside):
        optimizer = Optimizer(some, MUON)
        optimizer.step(1.0)
        assert len(optimizer.optimizers) == 1
        assert {key.rpartition("/")[0] for key in optimizer.state()} == some.keys()
        assert all(not torch.equal(before[name], parameter) for name, parameter in some.items())


def test_muon_leaves_the_rest_to_adamw() -> None:
    parameters, optimizer = with_gradients(MUON)
    optimizer.step(1.0)
    plain, reference = with_gradients(AdamWSection(lr=1e-2))
    reference.step(1.0)
    rest = {name for name in parameters if ".blocks." not in name or parameters[name].dim() == 1}
    assert {"embedding.tokens.weight", "head.output.weight", "decoder.norm.weight"} < rest
    for name in parameters:
        assert torch.equal(parameters[name], plain[name]) == (name in rest), name


@pytest.mark.parametrize("section", [SECTIONS[name] for name in ("adamw", "bert", "muon")], ids=["adamw", "bert", "muon"])
def test_only_matrices_decay(section: AdamWSection | MuonSection) -> None:
    """With gradients of zero nothing but the decay is left."""
    parameters, optimizer = with_gradients(section)
    before = values(parameters)
    for parameter in parameters.values():
        parameter.grad.zero_()
    optimizer.step(0.5)
    for name, parameter in parameters.items():
        shrunk = 1 - 0.5e-2 * section.weight_decay if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk, rtol=1e-6, atol=0, msg=name)


@pytest.mark.sampled(3)
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_there_and_back(section: OptimizerSection, dtype: torch.dtype) -> None:
    """A run that hands its weights and state to a fresh one, and both go on alike to the last bit."""
    objective = CausalLM()
    first = stepper(fresh(GPT2), section=section, dtype=dtype, ema_decay=0.7)
    for step in range(3):
        first.take(step + 1, batches(objective, 4, step), 1.0)
    second = stepper(fresh(GPT2, init={"std": 0.1}), section=section, dtype=dtype, ema_decay=0.7)
    saved = {name: tensor.clone() for name, tensor in first.optimizer.state().items()}
    second.weights.load_mean(first.weights.mean, first.weights.mean_steps)
    second.weights.load({name: tensor.clone() for name, tensor in first.weights.master.items()})
    second.optimizer.load_state(saved)
    assert bits(second.optimizer.state()) == bits(saved)
    reports = [taking.take(4, batches(objective, 4, 3), 0.7) for taking in (first, second)]
    assert reports[0] == reports[1]
    states = [(one.weights.master, one.weights.working, one.weights.mean, one.optimizer.state()) for one in (first, second)]
    assert [bits(tensors) for tensors in states[0]] == [bits(tensors) for tensors in states[1]]
    assert second.weights.mean_steps == 4


@pytest.mark.parametrize("portion", [1, 2**12, 2**30])
def test_portions_have_the_bits_of_one_call(monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    """Against torch.optim's class, for matrices whose rows are no whole number of vectors, and for one that is stored by columns."""
    monkeypatch.setattr(training_optimizer, "_PORTION", portion)
    random = torch.Generator().manual_seed(1)
    shapes = {"odd": (301, 37), "small": (5, 3), "even": (640, 64), "vector": (4099,), "columns": (129, 65)}
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    drawn["columns"] = drawn["columns"].t()
    ours, theirs = ({name: nn.Parameter(tensor.clone()) for name, tensor in drawn.items()} for _ in range(2))
    optimizer = Optimizer(ours, AdamWSection(lr=1e-2))
    groups = [{"params": [p for p in theirs.values() if (p.dim() > 1) == decays], "weight_decay": 0.1 * decays} for decays in (True, False)]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for _ in range(3):
        for name, parameter in ours.items():
            parameter.grad = torch.randn(parameter.shape, generator=random)
            if name == "columns":
                parameter.grad = parameter.grad.t().contiguous().t()
            theirs[name].grad = parameter.grad.clone()
        for one in theirs.values():
            one.grad.mul_(0.3)
        optimizer.step(1.0, 0.3)
        reference.step()
        assert bits(ours) == bits(theirs)


SHAPES = {"matrix": (7, 5), "stacked": (2, 3, 4), "vector": (6,), "scalar": ()}


def drawn(generator: torch.Generator) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


DECAYING = AdamWSection(lr=1e-2, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.3)


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("adam", [AdamSection(kind="adam", lr=1e-2), DECAYING], ids=["adam", "adamw"])
def test_adam_s_formula(adam: AdamSection | AdamWSection, corrected: bool) -> None:
    """In float64, with gradients of many sizes, and a parameter that has none in some steps: each counts its own."""
    section = adam.model_copy(update={"bias_correction": corrected})
    generator = torch.Generator().manual_seed(4)
    parameters = drawn(generator)
    decay = section.weight_decay if isinstance(section, AdamWSection) else 0.0
    expected = {name: parameter.detach().double() for name, parameter in parameters.items()}
    first, second, steps = ({name: torch.zeros_like(tensor) for name, tensor in expected.items()} for _ in range(3))
    optimizer = Optimizer(parameters, section)
    (fast, slow), eps = section.betas, section.eps
    for step in range(20):
        for name, parameter in parameters.items():
            if name == "vector" and step % 3 == 0:
                continue
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** (step % 5 - 4)
            grad = parameter.grad.double()
            steps[name] += 1
            first[name], second[name] = fast * first[name] + (1 - fast) * grad, slow * second[name] + (1 - slow) * grad**2
            mean = first[name] / (1 - fast ** steps[name] if corrected else 1)
            square = second[name] / (1 - slow ** steps[name] if corrected else 1)
            shrunk = expected[name] * (1 - 0.5e-2 * decay * (parameter.dim() > 1))
            expected[name] = shrunk - 0.5e-2 * mean / (square.sqrt() + eps)
        optimizer.step(0.5)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")  # transformers' own
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adafactor_is_that_of_transformers(scaled: bool, decay: float) -> None:
    """Over 20 steps, some with gradients that are clipped, some with tiny ones, from weights large and small."""
    generator = torch.Generator().manual_seed(5)
    parameters = drawn(generator)
    with torch.no_grad():
        parameters["matrix"].mul_(1e-5)  # its size is less than min_scale
    theirs = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    matrices, others = [theirs["matrix"], theirs["stacked"]], [theirs["vector"], theirs["scalar"]]
    reference = transformers.optimization.Adafactor(
        [{"params": matrices, "weight_decay": decay}, {"params": others}], lr=1e-2, scale_parameter=scaled, relative_step=False
    )
    optimizer = Optimizer(parameters, AdafactorSection(kind="adafactor", lr=1e-2, scale_parameter=scaled, weight_decay=decay))
    for step in range(20):
        for name, parameter in parameters.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 10.0 ** (3 * (step % 3) - 4)
            theirs[name].grad = parameter.grad.clone()
        optimizer.step(1.0)
        reference.step()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-7, msg=f"{name} in step {step}")


def test_t5_s_schedule_is_adafactor_s_own() -> None:
    """The relative_step of transformers, min(0.01, 1 / sqrt(step)), is a schedule here."""
    schedule = Schedule(ScheduleSection(kind="inverse_sqrt", flat_steps=10_000), 10**6)
    parameter, theirs = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer, reference = Optimizer({"one": parameter}, SECTIONS["adafactor"]), transformers.optimization.Adafactor([theirs])
    for step in (1, 10_000, 40_000):
        state = {"step": step - 1, "RMS": 0.0, "exp_avg_sq_row": torch.ones(3), "exp_avg_sq_col": torch.ones(2)}
        reference.state[theirs] = state
        parameter.grad, theirs.grad = torch.zeros(3, 2), torch.zeros(3, 2)
        reference.step()
        rate = reference._get_lr(reference.param_groups[0], reference.state[theirs] | {"RMS": 1.0})
        assert optimizer.section.lr * schedule.factor(step) == pytest.approx(rate)


@KINDS
def test_parameters_without_a_gradient_are_left_as_they_are(section: OptimizerSection) -> None:
    """A head that the objective does not use: no decay, no state that moves, no part in the norm; later it may be used."""
    taking = stepper(fresh(GPT2, head={"tied": True, "choices": True}), section=section)
    plain = stepper(fresh(GPT2), section=section)
    unused = taking.weights.master.keys() - plain.weights.master.keys()
    assert unused
    before = values(dict(taking.model.named_parameters()))
    reports = [taking.take(step + 1, batches(CausalLM(), 4, step), 1.0) for step in range(2)]
    assert reports == [plain.take(step + 1, batches(CausalLM(), 4, step), 1.0) for step in range(2)]
    for name, parameter in taking.weights.master.items():
        assert torch.equal(parameter, before[name]) == (name in unused), name
    for name in unused:
        taking.weights.master[name].grad = torch.ones_like(before[name])
    taking.optimizer.step(1.0)
    assert not any(torch.equal(taking.weights.master[name], before[name]) for name in unused)
    after = values(taking.weights.master)
    assert taking.weights.clip_gradients(1.0) == 0.0  # no gradient at all
    taking.optimizer.step(1.0)
    assert bits(taking.weights.master) == bits(after)


@pytest.mark.sampled(4)
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_leaves_no_tensors_to_the_garbage_collector(section: OptimizerSection, dtype: torch.dtype) -> None:
    """It visits new objects rarely in the program (tfkit/__main__.py), and tensors in cycles would fill the memory until then."""
    taking = stepper(fresh(GPT2), section=section, dtype=dtype)
    taking.take(1, batches(CausalLM(), 4), 1.0)
    gc.collect()
    gc.freeze()  # so that the next collection visits the objects of the step alone
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        taking.take(2, batches(CausalLM(), 4), 1.0)
        gc.collect()
        assert not [one.shape for one in gc.garbage if isinstance(one, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@KINDS
def test_the_names_of_the_state_and_its_size_which_is_computed(section: OptimizerSection) -> None:
    parameters, optimizer = with_gradients(section)
    optimizer.step(1.0)
    assert all(parameter.grad is None for parameter in parameters.values())
    state = optimizer.state()
    assert state_numel({name: one.shape for name, one in parameters.items()}, section) == sum(one.numel() for one in state.values())
    assert {name.rpartition("/")[0] for name in state} == parameters.keys()
    if section is MUON:
        assert {name.rpartition("/")[2] for name in state} == {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}
        assert "decoder.blocks.0.mlp.op.up_proj.weight/momentum_buffer" in state

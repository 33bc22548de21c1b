"""Discriminative learning rates and gradual unfreezing: each tensor at its rate, and none before its step."""

from typing import Any

import pytest
import torch
from tiny_training import GPT2, LLAMA, batches, config, fresh

from tfkit.model.transformer import Transformer, build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.recipe.schema.optimizer_sections import AdafactorSection, AdamSection, AdamWSection, OptimizerSection
from tfkit.training.depth import Unfreezing, parameter_depths
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.replay import find_first_bad
from tfkit.training.step import Stepper

T5 = GPT2 | {"position": {"kind": "relative", "buckets": 8}, "encoder_layers": 3, "decoder_layers": 2, "head": {"tied": False}}
OBJECTIVE = CausalLM()


def test_depths_of_an_encoder_decoder() -> None:
    """Each stack from its own top, in a table by hand."""
    found = parameter_depths(name for name, _ in build(config(T5), 1).named_parameters())
    expected = {
        0: ("head.", "encoder.norm.", "decoder.norm."),
        1: ("encoder.blocks.2.", "decoder.blocks.1."),
        2: ("encoder.blocks.1.", "decoder.blocks.0."),
        3: ("encoder.blocks.0.",),
        4: ("embedding.", "encoder.position_bias.", "decoder.position_bias."),
    }
    for name, depth in found.items():
        assert [depth] == [one for one, beginnings in expected.items() if name.startswith(beginnings)], name
    assert all(any(name.startswith(beginning) for name in found) for beginnings in expected.values() for beginning in beginnings)


@pytest.mark.parametrize(
    "section",
    [
        AdamWSection(lr=1e-2, layer_decay=0.5, weight_decay=0.3),
        AdamSection(kind="adam", lr=1e-2, layer_decay=0.5),
        AdafactorSection(kind="adafactor", lr=1e-2, layer_decay=0.5, scale_parameter=False),
    ],
    ids=lambda section: section.kind,
)
def test_each_parameter_moves_at_its_own_rate(section: OptimizerSection) -> None:
    """The first step of each of these is in proportion to the rate: beside the step at 1.0, that of depth d is half as long d times."""
    moved: list[dict[str, torch.Tensor]] = []
    for decay in (section.layer_decay, 1.0):
        model = build(config(T5), 3)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        random = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        Optimizer(dict(model.named_parameters()), section.model_copy(update={"layer_decay": decay})).step(0.5)
        moved.append({name: parameter.detach() - before[name] for name, parameter in model.named_parameters()})
    decayed, plain = moved
    for name, depth in parameter_depths(decayed).items():
        assert plain[name].abs().max() > 1e-3
        torch.testing.assert_close(decayed[name], plain[name] * 0.5**depth, rtol=1e-3, atol=1e-7, msg=name)


def moved_by(taken: Stepper, step: int) -> set[str]:
    """Take a step, and return the names of the weights that it has changed."""
    before = {name: master.detach().clone() for name, master in taken.weights.master.items()}
    taken.take(step, batches(OBJECTIVE, 4, step), 1.0)
    return {name for name, master in taken.weights.master.items() if not torch.equal(master, before[name])}


def unfreezing_stepper(model: Transformer, every: int, dtype: torch.dtype) -> Stepper:
    weights = Weights(model, dtype, 0.5)
    optimizer = Optimizer(weights.trained, AdamWSection(lr=1e-2, weight_decay=0.5))
    unfreezing = Unfreezing(weights.working, every)
    return Stepper(LossModule(model, OBJECTIVE), weights, optimizer, device=torch.device("cpu"), seed=1, unfreezing=unfreezing)


def test_a_replayed_step_computes_no_gradient_of_what_is_frozen_in_it() -> None:
    stepper = unfreezing_stepper(fresh(LLAMA), 2, torch.float32)
    reached = []
    stepper.weights.working["embedding.tokens.weight"].register_hook(reached.append)
    for step, is_reached in ((6, False), (7, True)):
        assert find_first_bad(stepper, batches(OBJECTIVE, 1), step) is None
        assert bool(reached) == is_reached


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("values", "stages"),
    [
        (LLAMA, [["head.", "decoder.norm."], ["decoder.blocks.1."], ["decoder.blocks.0."], ["embedding."]]),
        (GPT2, [["decoder.norm."], ["decoder.blocks.1."], ["decoder.blocks.0."], ["embedding."]]),  # whose head is the embedding
    ],
    ids=["untied", "tied"],
)
def test_exactly_what_is_unfrozen_moves(values: dict[str, Any], stages: list[list[str]], dtype: torch.dtype) -> None:
    """Two steps a stage, weight decay and the exponential mean included; a frozen parameter never moves, and all others do."""
    model = fresh(values)
    frozen = "decoder.blocks.1.mlp.norm.weight"
    dict(model.named_parameters())[frozen].requires_grad_(False)
    taken = unfreezing_stepper(model, 2, dtype)
    for step in range(1, 11):
        open_now = tuple(beginning for stage in stages[: 1 + (step - 1) // 2] for beginning in stage)
        assert moved_by(taken, step) == {name for name in taken.weights.master if name.startswith(open_now) and name != frozen}, step
        assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [frozen]


def test_where_a_depth_is_frozen_nothing_waits_for_it() -> None:
    model = fresh(LLAMA)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("head.", "decoder.norm.", "decoder.blocks.1.")))
    taken = unfreezing_stepper(model, 3, torch.float32)
    assert moved_by(taken, 1) == {name for name in taken.weights.master if name.startswith("decoder.blocks.0.")}

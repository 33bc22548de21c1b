"""The memory of the models of a run, as planned, compared with the tensors of real steps, and of the steps of a simulated rank."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from test_run_flops import prepared
from tiny_plans import BOTH, DECODER, LLAMA, read_recipe_of, recipe_of
from torch import Tensor, nn

import tfkit
from tfkit.engine.assembly.components import Components, meta_model
from tfkit.engine.assembly.memory_plan import run_memory, sums_gradients
from tfkit.engine.planning import simulated_step
from tfkit.engine.planning.simulated_step import Mesh
from tfkit.engine.planning.tensor_meter import TensorMeter
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe import model_config
from tfkit.run.signals import interrupts
from tfkit.training.isolation import isolated
from tfkit.training.memory import ModelBytes, trained_bytes
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights

BF16, SECTIONS = {"precision": "bf16"}, {"muon": {"kind": "muon", "lr": 1e-3}, "adafactor": {"kind": "adafactor", "lr": 1e-3}}
ONE = {"micro_batch_size": 4}  # micro-batch a step


def size(tensors: Iterable[Tensor | nn.Parameter | None]) -> int:
    """Return the bytes of distinct tensors; of sharded ones, those of this rank."""
    found = {
        id(local): local.numel() * local.element_size()
        for one in tensors
        if one is not None
        for local in [getattr(one, "_local_tensor", one)]
    }
    return sum(found.values())


def measured(weights: Weights, optimizer: Optimizer, gradients: int) -> ModelBytes:
    """Return the bytes of a model after a step."""
    working = [one for name, one in weights.working.items() if weights.sharding is None and one is not weights.master[name]]
    mean = [weights.mean[name] for name in weights.trained] if weights.mean else []
    return ModelBytes(size(weights.master.values()), size(working), gradients, size(optimizer.state().values()), size(mean))


def watched(weights: Weights, optimizer: Optimizer) -> list[int]:
    """Return a list to which each update adds the bytes of the gradients that it finds. Of shards, some algorithms gather one at a time."""
    found: list[int] = []
    for algorithm in optimizer.optimizers if weights.sharding is None else [optimizer]:

        def step(*arguments: Any, update: Any = algorithm.step) -> None:
            found.append(size(one.grad for one in weights.master.values()))
            update(*arguments)

        algorithm.step = step
    return found


def held_by_others(components: Components) -> int:
    """Return the bytes of frozen companions and of the copy that is the reference."""
    models = [one.model for one in components.stepper.objective.companions if not one.trained]
    if components.reference is not None and components.reference.is_copy:
        models.append(components.reference.model)
    return sum(size(model.parameters()) for model in models)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "training", "more"),
    [
        ("causal_lm", {}, {}),
        ("causal_lm", BF16, {}),
        ("causal_lm", BF16 | ONE | {"ema_decay": 0.9}, {}),
        ("causal_lm", BF16 | ONE, {"optimizer": SECTIONS["muon"]}),
        ("masked_lm", BF16 | ONE, {}),
        ("span_corruption", BF16 | ONE, {"optimizer": SECTIONS["adafactor"]}),
        ("adapter", BF16 | ONE | {"adapter": {"rank": 2}, "ema_decay": 0.9}, {}),
        ("adapter", BF16 | {"adapter": {"rank": 2, "merge": True}}, {}),
        ("frozen", BF16, {}),
        ("distillation", BF16 | ONE, {}),
        ("ppo", {}, {}),
        ("ppo", BF16, {}),
        ("grpo", BF16 | ONE, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "plain",
)
def test_real_steps_hold_the_planned_bytes(name: str, training: dict[str, Any], more: dict[str, Any], in_place: None) -> None:
    """To the byte, for each kind of tensor of the trained model and of its companions."""
    document = recipe_of(name, **training) | more
    with isolated(), interrupts(None) as stop:
        run, components = prepared(document, stop)
        components.loader.micro_batch_size = document["training"]["micro_batch_size"]
        stepper = components.stepper
        own = watched(components.stepper.weights, components.stepper.optimizer)
        further = {name: watched(one.weights, one.optimizer) for name, one in stepper.companions.items()}
        for step in (0, 1):
            stepper.take(step + 1, components.loader.step(step), 1.0)
        sums = sums_gradients(run.data.objective, components.loader.sizes.full, components.loader.micro_batch_size)
        planned = run_memory(run.recipe, run.data.objective, run.shapes, components.stepper.weights.dtype, sums_gradients=sums)
        assert planned.own == measured(components.stepper.weights, components.stepper.optimizer, max(own))
        beside = ModelBytes(held_by_others(components))
        for companion, one in stepper.companions.items():
            beside += measured(one.weights, one.optimizer, max(further[companion]))
        assert planned.further == beside
        assert planned.further.weights > 0 or name not in ("distillation", "ppo", "grpo")


BLOCK = {"decoder_layers": 1}
SIMULATED: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "gpt2": ("causal_lm", {}, {}, 2),
    "odd": ("causal_lm", {"ema_decay": 0.9}, {"model": DECODER | BLOCK | {"dim": 25, "num_heads": 1}}, 4),  # shards of unequal size
    "replicated": ("causal_lm", {}, {"model": DECODER | BLOCK}, 1),
    "muon": ("grouped heads", {}, {"model": LLAMA | BLOCK, "optimizer": SECTIONS["muon"]}, 2),
    "t5-adafactor": ("span_corruption", {}, {"model": BOTH | BLOCK | {"encoder_layers": 1}, "optimizer": SECTIONS["adafactor"]}, 4),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", SIMULATED)
def test_a_simulated_rank_holds_the_planned_bytes(case: str, dtype: torch.dtype) -> None:
    name, training, more, shards = SIMULATED[case]
    recipe = read_recipe_of(recipe_of(name, **training) | more)
    config = model_config(recipe.model, 61)
    ids = torch.zeros(2, 12, dtype=torch.long)
    batch = Batch(ids, ids, decoder_input_ids=ids if config.encoder_layers else None)
    mesh = Mesh(4, shards, reshard=True, micro_batches=1, dtype=dtype)
    with simulated_step._fake_ranks(4) as group, TensorMeter(fake=True):
        stepper = simulated_step._stepper(recipe, config, CausalLM(), mesh, group)
        gradients = watched(stepper.weights, stepper.optimizer)
        for step in (1, 2):
            stepper.take(step, [batch], 1.0)
        found = measured(stepper.weights, stepper.optimizer, max(gradients))
    planned = run_memory(recipe, CausalLM(), meta_model(recipe, config), dtype, shards=shards).own
    for part in ("held", "gradients", "weights", "working", "optimizer", "mean"):
        assert getattr(planned, part) == getattr(found, part), part
    assert (planned.gathered > 0) == (shards > 1)


def test_a_plan_counts_narrow_gradients_where_a_step_has_one_micro_batch(in_place: None) -> None:
    """In bf16, they are not added up: 2 bytes less for each trained weight."""
    document = recipe_of("causal_lm", **BF16)
    sizes = ({"training.micro_batch_size": 1, "training.batch_size": rows} for rows in (1, 2))
    one, two = (tfkit.plan(document, changes, threads=1) for changes in sizes)
    assert two.memory_bytes - one.memory_bytes == 2 * one.trained_parameters


def test_what_training_all_weights_with_adamw_takes() -> None:
    """In fp32: weights, gradients, two moments and a counter of steps; in bf16, there is a copy besides."""
    assert (trained_bytes(1000, torch.float32), trained_bytes(1000)) == (16_004, 18_004)

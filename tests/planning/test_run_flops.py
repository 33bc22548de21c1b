"""The FLOPs of real steps of every objective, compared with torch's own counter, and those of a whole run."""

from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_plans import RECIPES, read_recipe_of, recipe_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tfkit
from tfkit.alignment.user_code import NO_CODE
from tfkit.carbon import Meter
from tfkit.data import Loader
from tfkit.engine.assembly.components import Components, assemble, first_model
from tfkit.engine.assembly.step_flops import StepFlops, flops_per_token
from tfkit.engine.listener import Silent
from tfkit.engine.planning.run_flops import run_flops
from tfkit.engine.planning.run_forecaster import RunForecaster
from tfkit.engine.training_run.run import Run
from tfkit.objectives.registry import OBJECTIVES
from tfkit.run.signals import interrupts
from tfkit.training import flops
from tfkit.training.isolation import isolated

CPU = torch.device("cpu")


def prepared(document: dict[str, Any], stop: Any) -> tuple[Run, Components]:
    """Return a run with its weights, ready for its first step."""
    run = Run(read_recipe_of(document), CPU, Silent(), stop, Meter(), RunForecaster(), code=NO_CODE)
    run.prepare()
    run.forecast()
    return run, assemble(run.recipe, run.data, first_model(run.recipe, run.data, Silent()), CPU, 2, Silent())


def test_the_recipes_cover_every_objective() -> None:
    assert {objective["kind"] for _, _, objective, _ in RECIPES.values()} == {*OBJECTIVES}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", RECIPES)
def test_the_flops_of_a_step_are_those_that_torch_counts(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain attention kernel computes all pairs; test_flops.py tests the visible ones. The vocabulary's bias is not counted.

    A run that is not forecast counts the same FLOPs for a token as its plan.
    """
    monkeypatch.chdir(place)
    with isolated(), interrupts(None) as stop:
        run, components = prepared(recipe_of(name), stop)
        if name not in ("ppo", "grpo"):  # whose rows are sampled
            planned, loader = run.planned, components.loader
            rows = Loader(loader.rows, run.data.objective.collate, loader.sizes, planned.micro_batch_size)
            of_token = flops_per_token(run.recipe, run.data, run.shapes, rows, components.plan.steps)
            assert of_token == pytest.approx(planned.training_flops / planned.tokens, rel=3e-3)  # which rounds the tokens
        monkeypatch.setattr(flops, "visible_pairs", lambda queries, keys, *, causal, window: queries * keys)
        batches = components.loader.step(0)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            for index, batch in enumerate(batches):
                components.stepper.try_out(1, batch, index)
        objective, model = run.data.objective, components.stepper.model
        counted = reduce(add, (StepFlops.of(objective, model, batch, 2) for batch in batches))
    assert counted.forward.total + counted.backward.total + counted.companions_in_steps == pytest.approx(
        counter.get_total_flops(), rel=2e-3
    )


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_the_flops_of_sampled_responses_are_those_that_torch_counts(name: str, in_place: None) -> None:
    """Sampling, forward passes of policy, reference and value model, and scores; the plan assumes responses of maximum length."""
    with isolated(), interrupts(None) as stop:
        run, components = prepared(recipe_of(name), stop)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            components.loader.step(0)
        planned = run.planned.flops
    # The run is one iteration: two epochs over eight responses, in steps of four. Shorter responses take fewer FLOPs; the masked pairs of
    # attention take more, and so does the gold model, whose tokenizer splits odd bytes into several tokens.
    value = planned["companions"] * 0.6 if name == "ppo" else 0.0  # an upper bound of its training
    assert 0.5 * (planned["rollouts"] + planned["companions"] - value) < counter.get_total_flops()
    assert counter.get_total_flops() < 1.4 * (planned["rollouts"] + planned["companions"])


def test_a_limit_of_tokens_in_an_evaluation_counts_those_of_prompts(in_place: None) -> None:
    whole = tfkit.plan(recipe_of("grpo"), threads=1)
    part = tfkit.plan(recipe_of("grpo"), {"evaluation.max_tokens": 1}, threads=1)  # a single prompt
    assert 0 < part.flops["evaluation"] < whole.flops["evaluation"]
    assert part.table_seconds["writing"] < whole.table_seconds["writing"]


def test_the_parts_add_up(in_place: None) -> None:
    with isolated(), interrupts(None) as stop:
        plan = prepared(recipe_of("causal_lm") | {"generation": {"prompts": ["the cat"], "max_new_tokens": 8}}, stop)[0].planned
        checkpointed = prepared(recipe_of("causal_lm", activation_checkpointing=True), stop)[0].planned
    parts = {name: value for name, value in plan.flops.items() if name not in ("total", "attention", "head")}
    assert plan.flops["total"] == sum(parts.values())
    assert parts["backward"] == 2 * parts["forward"]
    assert parts["samples"] > 0 == parts["recomputed"]
    assert plan.flops["attention"] + plan.flops["head"] < parts["forward"] + parts["backward"]
    assert 0 < checkpointed.flops["recomputed"] < checkpointed.flops["forward"]
    assert checkpointed.training_flops == plan.training_flops


def test_a_fine_tuning_writes_no_samples_before_its_first_step(in_place: None) -> None:
    document = recipe_of("dpo") | {"generation": {"prompts": ["the cat", "a dog"], "max_new_tokens": 8}, "evaluation": {"every": None}}
    with isolated(), interrupts(None) as stop:
        run, components = prepared(document, stop)
        assert isinstance(components.loader, Loader)
        _, work, _ = run_flops(run.recipe, run.data, run.shapes, components.loader, components.plan.steps)
    assert run.data.start is not None
    assert (work.decoded, work.sampled) == (8, 16)  # after the last step

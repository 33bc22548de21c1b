"""The arithmetic of every objective's real steps against torch's own counter, and that of the whole run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_plans import RECIPES, recipe_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tfkit.carbon import Meter
from tfkit.engine.components import Components, assemble, first_model
from tfkit.engine.isolation import isolated
from tfkit.engine.library.calls import interrupts
from tfkit.engine.listener import Silent
from tfkit.engine.planning.run_flops import StepFlops, sum_of
from tfkit.engine.run import Run
from tfkit.objectives.registry import OBJECTIVES
from tfkit.recipe import RecipeText
from tfkit.recipe.dump import dump_document
from tfkit.training import flops

CPU = torch.device("cpu")


def prepared(document: dict[str, Any], stop: Any) -> tuple[Run, Components]:
    """Return a run with its weights, ready for its first step."""
    run = Run(RecipeText(Path("<recipe>"), dump_document(document)).read(()), CPU, Silent(), stop, Meter())
    run.prepare()
    return run, assemble(run.recipe, run.data, first_model(run.recipe, run.data, Silent()), CPU, 2, Silent())


def test_every_objective_is_among_them() -> None:
    assert {objective["kind"] for _, _, objective, _ in RECIPES.values()} == {*OBJECTIVES}


@pytest.mark.parametrize("name", RECIPES)
def test_matrix_products_of_a_step_as_torch_counts_them(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain kernel of attention computes whole squares; test_flops.py has the visible part. The bias of a vocabulary is left out."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(flops, "visible_pairs", lambda queries, keys, *, causal, window: queries * keys)
    with isolated(), interrupts(None) as stop:
        run, components = prepared(recipe_of(name), stop)
        batches = components.loader.step(0)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            for index, batch in enumerate(batches):
                components.stepper.try_out(1, batch, index)
        objective, model = run.data.objective, components.stepper.model
        found = sum_of(StepFlops.of(objective, model, batch, 2) for batch in batches)
    assert found.forward.total + found.backward.total + found.companions_in_steps == pytest.approx(counter.get_total_flops(), rel=2e-3)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_an_iteration_of_responses_as_torch_counts_it(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, the forwards of policy, reference and value model, the scores of the responses; the plan takes the longest responses."""
    monkeypatch.chdir(place)
    with isolated(), interrupts(None) as stop:
        run, components = prepared(recipe_of(name), stop)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            components.loader.step(0)
        planned = run.planned.flops
    # The run is one iteration: two passes over eight responses, in steps of four. Shorter responses take less, the square of
    # attention more, and so does the gold model, which reads odd bytes as several tokens.
    value = planned["companions"] * 0.6 if name == "ppo" else 0.0  # the most that its training may be
    assert 0.5 * (planned["rollouts"] + planned["companions"] - value) < counter.get_total_flops()
    assert counter.get_total_flops() < 1.4 * (planned["rollouts"] + planned["companions"])


def test_the_parts_add_up_and_an_evaluation_is_a_forward(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with isolated(), interrupts(None) as stop:
        plan = prepared(recipe_of("causal_lm") | {"generation": {"prompts": ["the cat"], "max_new_tokens": 8}}, stop)[0].planned
        again = prepared(recipe_of("causal_lm", activation_checkpointing=True), stop)[0].planned
    parts = {name: value for name, value in plan.flops.items() if name not in ("total", "attention", "head")}
    assert plan.flops["total"] == sum(parts.values())
    assert parts["backward"] == 2 * parts["forward"]
    assert parts["samples"] > 0 == parts["recomputed"]
    assert plan.flops["attention"] + plan.flops["head"] < parts["forward"] + parts["backward"]
    assert 0 < again.flops["recomputed"] < again.flops["forward"]
    assert again.training_flops == plan.training_flops

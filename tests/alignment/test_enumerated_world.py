"""For rewards whose optimum is known in closed form, pi_ref exp(r / beta) / Z, GRPO and PPO with beta in the reward and DPO reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_rollouts import END, LETTERS, PPOWorld, World, codec, outcomes, probabilities
from tiny_rollouts import policy as tiny_policy

from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.dpo import open_dpo
from tfkit.objectives.rollouts import Response, response_batch
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.preference_sections import DPOSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

BETA, STEPS, PROMPT = 0.7, 300, 1
REWARD = """
def reward(row, text):
    table = {"": 0.2, "a": 1.0, "b": -0.5, "ab": 1.2, "ba": 0.4, "cc": -1.0, "abc": 0.9, "ccc": 0.8}
    return table.get(text, 0.1 * text.count("c") - 0.2 * text.count("a"))
"""


def rewards() -> torch.Tensor:
    names: dict[str, object] = {}
    exec(REWARD, names)
    texts = ["".join(LETTERS[token] for token in one if token != END) for one in outcomes()]
    return torch.tensor([names["reward"](None, text) for text in texts], dtype=torch.float64)


def optimum(reference: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of all responses that are best, given those of the reference."""
    found = reference * (rewards() / BETA).exp()
    return found / found.sum()


def distance(policy: Transformer, wanted: torch.Tensor) -> float:
    """Return the total variation."""
    return float((probabilities(policy, PROMPT) - wanted).abs().sum() / 2)


def rule(folder: Path) -> list[dict[str, Any]]:
    (folder / "table.py").write_text(REWARD)
    return [{"kind": "python", "function": f"{folder}/table.py:reward", "allow_code": True}]


@pytest.mark.slow
def test_grpo_reaches_the_optimum(tmp_path: Path) -> None:
    sizes = {"batch_size": 64, "micro": 64, "prompts": 1, "completions": 64}
    world = World(tmp_path, ["b"], rules=rule(tmp_path), scale_rewards="none", beta=BETA, **sizes)
    reference = probabilities(world.policy, PROMPT)
    assert float(reference.sum()) == pytest.approx(1, abs=1e-6)
    wanted = optimum(reference)
    assert distance(world.policy, wanted) > 0.2
    for step in range(STEPS):
        world.take(1, first=step, factor=1 - step / STEPS)
    assert distance(world.policy, wanted) < 0.02
    # the distance that the log reports is that of the optimum, which its samples estimate
    kl = float((wanted * (wanted / reference).log()).sum())
    assert world.loader.observed()["kl"] == pytest.approx(kl, abs=0.1)


@pytest.mark.slow
def test_ppo_reaches_the_optimum(tmp_path: Path) -> None:
    """The value model learns each token's return."""
    steps, sizes = 240, {"prompts": 1, "completions": 128, "batch_size": 128, "micro": 128}
    world = PPOWorld(tmp_path, ["b"], rules=rule(tmp_path), beta=BETA, no_eos_reward=None, value_lr=2e-2, **sizes)
    wanted = optimum(probabilities(world.policy, PROMPT))
    assert distance(world.policy, wanted) > 0.2
    for step in range(steps):
        world.take(1, first=step, factor=0.01 + 0.99 * (1 - step / steps) ** 2)
    assert distance(world.policy, wanted) < 0.02
    assert world.loader.observed()["explained_variance"] > 0.1


@pytest.mark.slow
def test_dpo_reaches_the_same_optimum_from_preferences_alone(tmp_path: Path) -> None:
    """All pairs of responses, each preferred as often as the Bradley-Terry model of the rewards says: the loss has one minimum."""
    policy = tiny_policy()
    reference = probabilities(policy, PROMPT)
    objective = open_dpo(DPOSection(kind="dpo", beta=BETA), ModelContext(policy.config, codec(), [], 1, tmp_path))
    every = outcomes()
    batch = response_batch([Response(np.array([PROMPT]), np.array(one), {}) for one in every], 0)
    better, worse = (index.flatten() for index in torch.meshgrid(*(torch.arange(len(every)),) * 2, indexing="ij"))
    share = (torch.sigmoid(rewards()[better] - rewards()[worse]) / len(better)).float()
    extras = {"row": torch.zeros(len(every), dtype=torch.long), "better": better, "worse": worse, "share": share}
    batch = replace(batch, extras=extras | {"reference": reference.log().float()})
    weights = Weights(policy, torch.float32, None)
    adam = AdamWSection(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    stepper = Stepper(LossModule(policy, objective), weights, Optimizer(weights.trained, adam), device=torch.device("cpu"), seed=1)
    for step in range(STEPS):
        stepper.take(step + 1, [batch], 1 - step / STEPS)
    assert distance(policy, optimum(reference)) < 0.02

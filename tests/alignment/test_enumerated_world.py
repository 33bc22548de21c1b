"""For rewards whose optimum is known in closed form, pi_ref exp(r / beta) / Z, GRPO with beta in the reward and DPO reach it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_rollouts import END, LETTERS, World, codec, outcomes, probabilities
from tiny_rollouts import policy as tiny_policy

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


@pytest.mark.slow
def test_grpo_reaches_the_optimum(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(REWARD)
    rules = [{"kind": "python", "function": f"{tmp_path}/table.py:reward", "allow_code": True}]
    world = World(tmp_path, ["b"], batch_size=64, micro=64, rules=rules, scale_rewards="none", beta=BETA, prompts=1, completions=64)
    reference = probabilities(world.policy, PROMPT)
    assert float(reference.sum()) == pytest.approx(1, abs=1e-6)
    optimum = reference * (rewards() / BETA).exp()
    optimum /= optimum.sum()
    distances = [float((reference - optimum).abs().sum() / 2)]  # total variation
    for step in range(STEPS):
        world.stepper.take(step + 1, world.loader.step(step), 1 - step / STEPS)
    distances.append(float((probabilities(world.policy, PROMPT) - optimum).abs().sum() / 2))
    assert distances[0] > 0.2
    assert distances[1] < 0.02
    # the distance that the log reports is that of the optimum, which its samples estimate
    kl = float((optimum * (optimum / reference).log()).sum())
    assert world.loader.observed()["kl"] == pytest.approx(kl, abs=0.1)


@pytest.mark.slow
def test_dpo_reaches_the_same_optimum_from_preferences_alone(tmp_path: Path) -> None:
    """The rows are all pairs of responses, each preferred as often as the Bradley-Terry model of the rewards says, so that the loss has
    one minimum.
    """
    policy = tiny_policy()
    reference = probabilities(policy, PROMPT)
    optimum = reference * (rewards() / BETA).exp()
    optimum /= optimum.sum()
    section = DPOSection(kind="dpo", beta=BETA)
    objective = open_dpo(section, ModelContext(policy.config, codec(), [], 1, tmp_path))
    batch = response_batch([Response(np.array([PROMPT]), np.array(one), {}) for one in outcomes()], 0)
    better, worse = (index.flatten() for index in torch.meshgrid(*(torch.arange(len(outcomes())),) * 2, indexing="ij"))
    preferred = torch.sigmoid(rewards()[better] - rewards()[worse])
    row = torch.zeros(len(outcomes()), dtype=torch.long)
    extras = {
        "row": row,
        "better": better,
        "worse": worse,
        "share": (preferred / len(better)).float(),
        "reference": reference.log().float(),
    }
    batch = replace(batch, extras=extras)
    weights = Weights(policy, torch.float32, None)
    adam = AdamWSection(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    stepper = Stepper(LossModule(policy, objective), weights, Optimizer(weights.trained, adam), device=torch.device("cpu"), seed=1)
    for step in range(STEPS):
        stepper.take(step + 1, [batch], 1 - step / STEPS)
    assert float((probabilities(policy, PROMPT) - optimum).abs().sum() / 2) < 0.02

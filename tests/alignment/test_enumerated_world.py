"""In a world whose optimum is known in closed form, GRPO with beta in the reward reaches it: pi_ref exp(r / beta) / Z."""

from pathlib import Path

import pytest
import torch
from tiny_rollouts import END, LETTERS, World, outcomes, probabilities

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
    return torch.tensor([names["reward"](None, text) for text in texts], dtype=torch.float64)  # type: ignore[operator]


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

"""Steps of PPO with the real loader, objective and stepper: the classic bugs of ratios, credit, padding and positions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_ppo import PROMPTS, RULES, SIZES, PPOWorld, critic
from tiny_rollouts import END, LETTERS, LONGEST, policy

from tfkit.generation.inference import inference
from tfkit.objectives.log_probs import response_log_probs
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.rollouts import Response, response_batch

TEMPERATURE = 0.7


def test_first_ratios_are_one(tmp_path: Path) -> None:
    """In the first step of each iteration every ratio is exactly 1, and nothing is clipped; in the second step this is not so."""
    world = PPOWorld(tmp_path, PROMPTS, temperature=TEMPERATURE, **SIZES)
    for step in range(4):
        report = world.stepper.take(step + 1, world.loader.step(step), 1.0)
        found = (report.largest["largest_ratio"], *(report.observed[name] for name in ("clip_fraction", "approximate_kl")))
        assert (found == (1.0, 0.0, 0.0)) == (step % 2 == 0), f"step {step + 1}: {found}"
        if step % 2 == 0:
            assert report.observed["value_clip_fraction"] == 0.0


def test_credit_is_in_its_place(tmp_path: Path) -> None:
    """With lambda 1, the return of a token is the sum of the rewards from this token on: the score at the end, less beta times k1 of each
    token.

    A response without an end token gets no_eos_reward instead of its score; the end token is a token like any other, and nothing follows
    it.
    """
    beta = 0.3
    world = PPOWorld(tmp_path, PROMPTS, gae_lambda=1.0, beta=beta, no_eos_reward=-2.0, rules=RULES, **SIZES)
    lengths = set()
    for iteration in range(3):
        responses = world.rollouts._of_step(2 * iteration).responses
        batch = response_batch([replace(one, token_values={}) for one in responses], 0)
        with inference(world.policy):
            own = response_log_probs(world.policy, batch).double()
        with world.reference.in_use() as reference:
            ratios = own - response_log_probs(reference, batch).double()
        for one, k1 in zip(responses, ratios.split([len(one.ids) for one in responses]), strict=True):
            text = "".join(LETTERS[token] for token in one.ids if token != END)
            score = 0.7 + ("b" in text) if one.ids[-1] == END else -2.0
            expected = score - beta * k1.flip(0).cumsum(0).flip(0)
            assert one.token_values["returns"] == pytest.approx(expected.numpy(), abs=1e-5)
            lengths.add((len(one.ids), bool(one.ids[-1] == END)))
        for step in (2 * iteration, 2 * iteration + 1):
            for micro_batch in world.loader.step(step):
                masked = micro_batch.labels == IGNORED
                assert all(not values[masked].any() for values in micro_batch.extras.values())
                ends = (micro_batch.input_ids == END).sum(1) - (micro_batch.labels == END).sum(1)
                assert not ends.any(), "an end has no loss"
            world.stepper.take(step + 1, world.loader.step(step), 1.0)
    assert lengths == {(1, True), (2, True), (3, True), (LONGEST, False)}  # the end in the first, a middle, the last place, and absent


def test_advantages_are_white(tmp_path: Path) -> None:
    """Over the real tokens of all responses of an iteration, advantages have mean 0 and variance 1; returns are not whitened."""
    world = PPOWorld(tmp_path, PROMPTS, **SIZES)
    responses = world.rollouts._of_step(0).responses
    advantages, returns = (np.concatenate([one.token_values[name] for one in responses]) for name in ("advantages", "returns"))
    assert (advantages.mean(), advantages.var()) == pytest.approx((0, 1), abs=1e-5)
    assert abs(returns.mean()) > 0.1


def test_padding_changes_nothing() -> None:
    """Log-probabilities, values and scores of a row alone equal those in any batch, with any padding on the left."""
    value, model = critic(), policy()
    rows = [Response(np.array(prompt), np.array(ids), {}) for prompt, ids in (([1], [0, END]), ([2, 0, 1, 1], [1, 2, 0]), ([0, 0], [END]))]
    alone = [response_batch([one], 0) for one in rows]
    together = response_batch(rows, 0)
    with inference(model):
        for shift in (0, 1, 7):
            batch = Batch(
                *(
                    torch.nn.functional.pad(tensor, (shift, 0), value=fill)
                    for tensor, fill in ((together.input_ids, 0), (together.labels, IGNORED))
                ),
                padding_mask=torch.nn.functional.pad(together.padding_mask, (shift, 0)),
            )
            for of in (lambda one: response_log_probs(model, one, TEMPERATURE), value.values, value.scores):
                torch.testing.assert_close(of(batch), torch.cat([of(one) for one in alone]), atol=1e-6, rtol=0)


def test_values_are_those_before_a_token() -> None:
    """The last token of a response changes no value, and the token before it changes only the last value."""
    value = critic()
    values = [
        value.values(response_batch([Response(np.array([1, 2]), np.array(ids), {})], 0)) for ids in ([0, 1, 2], [0, 1, END], [0, 0, 2])
    ]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0][:2], values[2][:2])
    assert not torch.isclose(values[0][2], values[2][2], atol=1e-3)


def test_any_cut_is_the_same_step(tmp_path: Path) -> None:
    """Losses, observations and weights of a whole iteration, with pretraining text, do not depend on the micro-batches."""
    mixed = {"ptx_weight": 2.0, "ptx_ratio": 2, "prompts": 4, "completions": 4, "batch_size": 8, "lr": 1e-3}
    found = []
    for micro in (8, 4, 1):
        world = PPOWorld(tmp_path, PROMPTS, micro=micro, **mixed)
        reports = [world.stepper.take(step + 1, world.loader.step(step), 1.0) for step in range(2)]
        found.append((reports, {name: one.clone() for name, one in world.weights.master.items()}))
    for reports, weights in found[1:]:
        for one, other in zip(reports, found[0][0], strict=True):
            assert one.losses == pytest.approx(other.losses, abs=1e-4)
            assert one.all_observed == pytest.approx(other.all_observed, abs=1e-3)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, found[0][1][name], atol=2e-4, rtol=0, msg=name)

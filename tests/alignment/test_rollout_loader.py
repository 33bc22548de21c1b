"""Rollouts with the real loader, decoding, objective and stepper: each classic bug of sampled responses has its test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_device import ELSEWHERE, PretendedDevice
from tiny_ppo import PPOWorld
from tiny_rollouts import END, LONGEST, World, codec

from tfkit.alignment.policy_forward import token_statistics
from tfkit.errors import Stopped, UnhealthyError
from tfkit.generation.inference import inference
from tfkit.objectives.objective import IGNORED
from tfkit.objectives.rollouts import Response, response_batch
from tfkit.parallel.rank_map import UNWATCHED, BatchWork

PROMPTS = ["a", "bc", "cab", "bbbbb", "ccab", "ab"]
SIZES: dict[str, Any] = {"prompts": 4, "completions": 4, "batch_size": 8, "micro": 4}


def world(folder: Path, **changes: Any) -> World:
    return World(folder, PROMPTS, **SIZES | changes)


def bits(world: World) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in world.policy.parameters()]


def test_the_first_ratio_of_each_iteration_is_exactly_one(tmp_path: Path) -> None:
    """The model has dropout, the temperature is not 1, micro-batches have padding; the KL of the first policy from its reference is 0."""
    made = world(tmp_path, temperature=0.7, inner_epochs=2, lr=3e-2)
    reports = [made.stepper.take(step + 1, made.loader.step(step), 1.0) for step in range(8)]
    first, others = [reports[0], reports[4]], [reports[place] for place in (1, 2, 3, 5, 6, 7)]
    assert [(dict(one.largest), one.observed["clip_fraction"]) for one in first] == [({"largest_ratio": 1.0}, 0.0)] * 2
    assert all(one.largest["largest_ratio"] > 1 for one in others)
    assert any(one.observed["clip_fraction"] > 0 for one in others)
    again = world(tmp_path, temperature=0.7, inner_epochs=2)
    again.loader.step(0)
    assert again.loader.observed()["kl"] == 0.0
    assert made.loader.observed()["kl"] > 0


def test_a_learning_rate_of_zero_leaves_the_bits(tmp_path: Path) -> None:
    made = world(tmp_path, inner_epochs=2)
    before = bits(made)
    reports = [made.stepper.take(step + 1, made.loader.step(step), 0.0) for step in range(8)]
    assert bits(made) == before
    ratios = [one.largest["largest_ratio"] for one in reports]
    assert ratios[0:2] + ratios[4:6] == [1.0] * 4  # the first pass over the responses of each iteration
    assert ratios == pytest.approx([1.0] * 8, abs=1e-6)  # the second one has other micro-batches, which some processors round otherwise
    assert made.loader.observed()["kl"] == 0.0


def test_any_cut_of_a_minibatch_is_the_same_step(tmp_path: Path) -> None:
    """The responses, and the loss and gradient of the same rows, are equal for 1 micro-batch of 8 rows, 2 of 4, and 8 of 1."""
    seen = []
    for micro in (8, 4, 1):
        made = world(tmp_path, micro=micro, lr=3e-2)
        made.stepper.take(1, made.loader.step(0), 1.0)
        loss, gradient = 0.0, []
        batches = made.loader.step(1)
        count = sum(made.objective.counts(batch)["policy"] for batch in batches)
        for batch in batches:
            losses = made.stepper.loss_module.eval()(batch)
            (losses["policy"] / count).backward()
            loss += float(losses["policy"].detach()) / count
        gradient = [parameter.grad for parameter in made.policy.parameters() if parameter.grad is not None]
        ids = [row[mask].tolist() for batch in batches for row, mask in zip(batch.labels, batch.labels != IGNORED, strict=True)]
        seen.append((ids, loss, torch.cat([one.flatten() for one in gradient])))
    for ids, loss, gradient in seen[1:]:
        assert ids == seen[0][0]
        assert loss == pytest.approx(seen[0][1], abs=1e-6)
        torch.testing.assert_close(gradient, seen[0][2], atol=1e-6, rtol=1e-4)
    assert float(seen[0][2].abs().max()) > 1e-3


def test_padding_does_not_change_a_log_probability(tmp_path: Path) -> None:
    made = world(tmp_path)
    random = np.random.default_rng(1)
    responses = [
        Response(random.integers(0, 3, size), np.array([*random.integers(0, 3, n), END]), {})
        for size, n in ((1, 0), (7, 2), (3, 5), (2, 2))
    ]
    whole = response_batch(responses, 0)
    with inference(made.policy):
        together = token_statistics(made.policy, whole, 0.7).log_probs.split([len(one.ids) for one in responses])
        for one, found in zip(responses, together, strict=True):
            alone = token_statistics(made.policy, response_batch([one], 0), 0.7).log_probs
            torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
            ids = torch.from_numpy(np.concatenate([one.prompt, one.ids]))[None]
            logits = made.policy.head(made.policy(ids).hidden)[0, len(one.prompt) - 1 : -1] / 0.7
            torch.testing.assert_close(alone, logits.log_softmax(-1).gather(1, ids[0, len(one.prompt) :, None])[:, 0], atol=1e-6, rtol=0)


def test_the_end_is_an_action_and_nothing_behind_it_exists(tmp_path: Path) -> None:
    made = world(tmp_path)
    [batch] = world(tmp_path, micro=8, prompts=2).loader.step(0)
    counts = []
    for ids, labels, advantages, old in zip(
        batch.input_ids, batch.labels, *(batch.extras[n] for n in ("advantages", "log_probs")), strict=True
    ):
        places = (labels != IGNORED).nonzero()[:, 0]
        response = labels[places].tolist()
        assert response, "a response has one token at least, be it its end"
        counts.append(len(response))
        assert places.tolist() == [*range(int(places[0]), int(places[0]) + len(response))]
        assert response == ids[places + 1].tolist()
        assert END not in response[:-1]
        assert len(response) == LONGEST or response[-1] == END
        assert advantages[places].unique().numel() == 1
        assert bool((old[places] < 0).all())
        assert not old[labels == IGNORED].any()
        assert not advantages[labels == IGNORED].any()
    assert {*counts} >= {1, LONGEST}  # an end at once, and a response that was cut
    assert made.objective.counts(batch) == {"policy": sum(counts)}


def test_responses_are_drawn_by_seed_iteration_prompt_and_completion_alone(tmp_path: Path) -> None:
    def drawn(loader: Any) -> list[tuple[list[int], list[int]]]:
        return [(one.prompt.tolist(), one.ids.tolist()) for one in loader._of_step(0).responses]

    found = [drawn(world(tmp_path, micro=micro).loader) for micro in (1, 2, 8)]
    assert found[0] == found[1] == found[2]
    assert drawn(world(tmp_path, seed=2).loader) != found[0]
    assert len({tuple(ids) for prompt, ids in found[0] if prompt == found[0][0][0]}) > 1
    made = world(tmp_path)
    later = made.loader.step(made.loader.steps)
    assert [batch.labels.tolist() for batch in later] != [batch.labels.tolist() for batch in made.loader.step(0)]


def test_an_iteration_that_a_checkpoint_keeps_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """The checkpoint is between two steps and two passes; at the end of an iteration the state is empty."""
    sizes: dict[str, Any] = {"inner_epochs": 2, "lr": 3e-2}
    whole, cut = world(tmp_path, **sizes), world(tmp_path, **sizes)
    for step in range(3):
        whole.stepper.take(step + 1, whole.loader.step(step), 1.0)
    tensors, state = whole.loader.state(3)
    assert whole.loader.state(4) == ({}, {})
    cut.loader.restore({name: tensor.clone() for name, tensor in tensors.items()}, state)  # its weights are those of the first step
    assert cut.loader.observed() == whole.loader.observed()
    for ours, theirs in zip(cut.loader.step(3), whole.loader.step(3), strict=True):
        assert [(name, tensor.numpy().tobytes()) for name, tensor in ours.tensors()] == [
            (name, tensor.numpy().tobytes()) for name, tensor in theirs.tensors()
        ]
    assert cut.loader.numbers(3).tolist() == whole.loader.numbers(3).tolist()

    def rows(loader: Any) -> list[list[tuple[int, float]]]:
        """Return the labels and advantages of each response of a step."""
        return [
            [*zip(labels[labels != IGNORED].tolist(), values[labels != IGNORED].tolist(), strict=True)]
            for batch in loader.step(3)
            for labels, values in zip(batch.labels, batch.extras["advantages"], strict=True)
        ]

    before = rows(cut.loader)
    cut.loader.micro_batch_size = 1  # as after memory that ended: the same responses, and ratios that differ by rounding alone
    assert rows(cut.loader) == before
    report = cut.stepper.take(1, cut.loader.step(3), 0.0)
    assert dict(report.largest)["largest_ratio"] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="sizes"):
        cut.loader.restore(tensors | {"ids": tensors["ids"][:-1]}, state)


def test_an_iteration_whose_first_step_is_stopped_goes_on_with_the_same_beta(tmp_path: Path) -> None:
    """At the stop, the responses are sampled already, and beta is that of the next iteration."""

    def trained() -> PPOWorld:
        made = PPOWorld(tmp_path, ["a", "ab", "bac", "ccab"], **SIZES, beta=0.2, kl_target=0.01, kl_horizon=100)
        for step in range(2):
            made.stepper.take(step + 1, made.loader.step(step), 1.0)
        return made

    whole, resumed = trained(), trained()
    whole.loader.step(2)
    tensors, state = whole.loader.state(2)
    resumed.loader.restore(tensors, state)
    resumed.loader.step(2)
    assert resumed.loader.observed() == whole.loader.observed()
    assert resumed.loader.state(3)[1] == whole.loader.state(3)[1]


def test_equal_rewards_are_a_step_without_a_gradient(tmp_path: Path) -> None:
    made = world(tmp_path, rules=[{"kind": "regex", "pattern": "x"}])
    report = made.stepper.take(1, made.loader.step(0), 1.0)
    assert (report.loss, report.grad_norm) == (0.0, 0.0)
    assert made.loader.observed()["zero_advantages"] == 1.0
    assert made.loader.observed()["reward"] == 0.0


def test_a_response_without_an_end_has_the_reward_of_the_recipe(tmp_path: Path) -> None:
    rules = [{"kind": "regex", "pattern": "^"}]  # 1 for every text
    plain, penal = (world(tmp_path, rules=rules, no_eos_reward=value).loader for value in (None, -2.0))
    for loader in (plain, penal):
        loader.step(0)
    ended = penal.observed()["ended"]
    assert 0 < ended < 1
    assert plain.observed()["reward"] == plain.observed()["accuracy"] == 1.0
    assert penal.observed()["reward"] == pytest.approx(ended - 2 * (1 - ended))
    assert penal.observed()["accuracy"] == ended


def test_the_distance_in_the_reward_is_counted_once(tmp_path: Path) -> None:
    """With beta, advantages are those of reward - beta * log(policy / reference), summed over the tokens."""
    made = world(tmp_path, beta=0.3, scale_rewards="none", lr=5e-2)
    for step in range(2):
        made.stepper.take(step + 1, made.loader.step(step), 1.0)
    experience = made.loader._of_step(2)
    with made.reference.in_use() as reference:
        batch = response_batch(experience.responses, 0)
        theirs = token_statistics(reference, batch, 1.0).log_probs.split([len(one.ids) for one in experience.responses])
    totals = []
    for one, other in zip(experience.responses, theirs, strict=True):
        text = codec().decode([token for token in one.ids.tolist() if token != END])
        k1 = float((torch.from_numpy(one.token_values["log_probs"]).double() - other.double()).sum())
        totals.append(float("a" in text) - 0.3 * k1)
    groups = torch.tensor(totals).reshape(4, 4)
    expected = (groups - groups.mean(1, keepdim=True)).flatten()
    found = torch.tensor([one.token_values["advantages"][0] for one in experience.responses])
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)
    assert float(found.abs().max()) > 0.01


def test_a_stop_is_obeyed_while_responses_are_sampled(tmp_path: Path) -> None:
    made = world(tmp_path, micro=1)
    calls = [0]

    def after(count: int) -> Any:
        def stop() -> bool:
            calls[0] += 1
            return calls[0] >= count

        return stop

    whole = [one.ids.tolist() for one in world(tmp_path, micro=1).loader._of_step(0).responses]
    made.loader.work = BatchWork(should_stop=after(10**9))
    made.loader.step(0)
    most, made = calls[0], world(tmp_path, micro=1)
    for count in (1, most // 2, most):  # in the first forward, in the midst, before the last forward of the log-probabilities
        calls[0], made.loader.work = 0, BatchWork(should_stop=after(count))
        with pytest.raises(Stopped):
            made.loader.step(0)
        assert made.loader.state(0) == ({}, {})
    made.loader.work = UNWATCHED
    assert [one.ids.tolist() for one in made.loader._of_step(0).responses] == whole


def test_a_policy_that_runs_away_ends_the_run(tmp_path: Path) -> None:
    made = world(tmp_path, kl_stop=1e-3, lr=5e-2)
    for step in range(2):
        made.stepper.take(step + 1, made.loader.step(step), 1.0)
    before = bits(made)
    with pytest.raises(UnhealthyError, match=r"step 3: the KL of the policy .* nats .*kl_stop"):
        made.loader.step(2)
    assert bits(made) == before


def test_the_reference_stays_what_the_policy_was(tmp_path: Path) -> None:
    made = world(tmp_path, lr=5e-2)
    before = [parameter.detach().clone() for parameter in made.policy.parameters()]
    for step in range(2):
        made.stepper.take(step + 1, made.loader.step(step), 1.0)
    with made.reference.in_use() as reference:
        assert all(torch.equal(*pair) for pair in zip(before, reference.parameters(), strict=True))


def test_an_iteration_on_another_device_is_that_of_the_cpu(tmp_path: Path) -> None:
    """No tensor is created on the wrong device."""
    here, there = (World(tmp_path, PROMPTS[:4], **SIZES, temperature=0.8, beta=0.1) for _ in range(2))
    expected = here.loader.step(0)
    losses = [here.objective.loss(here.policy.eval(), batch) for batch in expected]
    with PretendedDevice() as device:
        there.policy.to(ELSEWHERE)
        with there.reference.in_use() as reference:
            reference.to(ELSEWHERE)
        there.loader.device = ELSEWHERE
        found = there.loader.step(0)
        assert device.operations > 100
        assert there.loader.observed().keys() == here.loader.observed().keys()
        tensors, state = there.loader.state(1)
        for ours, theirs, loss in zip(found, expected, losses, strict=True):
            assert ours.labels.tolist() == theirs.labels.tolist()
            for name, values in theirs.extras.items():
                torch.testing.assert_close(ours.extras[name], values, atol=1e-5, rtol=1e-4)
            moved = there.objective.loss(there.policy.eval(), ours.to(ELSEWHERE))
            moved["policy"].backward()
            for name, value in loss.items():
                torch.testing.assert_close(moved[name].detach().cpu(), value.detach(), atol=1e-4, rtol=1e-4)
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}  # as a checkpoint takes them
    assert state["iteration"] == 0

"""Rollouts with the real loader, decoding, objective and stepper: each classic bug of sampled responses has its test."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretended_device import ELSEWHERE, PretendedDevice
from tiny_rollouts import END, LONGEST, SIZES, PPOWorld, World, codec, critic, policy

from tfkit.alignment.policy_forward import token_statistics
from tfkit.errors import Stopped, UnhealthyError
from tfkit.generation.inference import inference
from tfkit.objectives.objective import IGNORED, Batch
from tfkit.objectives.rollouts import Response, response_batch
from tfkit.parallel.rank_map import UNWATCHED, BatchWork

PROMPTS = ["a", "bc", "cab", "bbbbb", "ccab", "ab"]


def world(folder: Path, kind: type[World] = World, **changes: Any) -> World:
    return kind(folder, PROMPTS, **SIZES | changes)


@pytest.mark.parametrize(("kind", "lr"), [(World, 3e-2), (PPOWorld, 1e-2)])
def test_the_first_ratio_of_each_iteration_is_exactly_one(tmp_path: Path, kind: type[World], lr: float) -> None:
    """With dropout, another temperature than 1, and padding. Nothing is clipped then, not even a value, and the first KL is 0."""
    made = world(tmp_path, kind, temperature=0.7, inner_epochs=2, lr=lr)
    reports = made.take(8)
    first, others = [reports[0], reports[4]], [reports[place] for place in (1, 2, 3, 5, 6, 7)]
    counted = ("clip_fraction", "value_clip_fraction", "approximate_kl")
    for one in first:
        assert dict(one.largest) == {"largest_ratio": 1.0}
        assert not any(one.observed.get(name) for name in counted)
    assert all(one.largest["largest_ratio"] > 1 for one in others)
    assert any(one.observed["clip_fraction"] > 0 for one in others)
    assert all(one.observed.get("approximate_kl", 1) > 0 for one in others)
    again = world(tmp_path, kind, temperature=0.7, inner_epochs=2)
    again.loader.step(0)
    assert again.loader.observed()["kl"] == 0.0
    assert made.loader.observed()["kl"] > 0


@pytest.mark.parametrize("kind", [World, PPOWorld])
def test_a_learning_rate_of_zero_leaves_the_bits(tmp_path: Path, kind: type[World]) -> None:
    """Those of the value model, too; a second pass over the same responses has the same losses."""
    made = world(tmp_path, kind, inner_epochs=2, batch_size=16)
    before = made.bits()
    reports = made.take(4, factor=0.0)
    assert made.bits() == before
    ratios = [one.largest["largest_ratio"] for one in reports]
    assert ratios[::2] == [1.0] * 2  # the first pass over the responses of each iteration
    assert ratios == pytest.approx([1.0] * 4, abs=1e-6)  # the second one has other micro-batches, which some processors round otherwise
    for first, second in ((0, 1), (2, 3)):
        assert reports[first].losses == pytest.approx(reports[second].losses, abs=1e-6)
    assert reports[0].losses != pytest.approx(reports[2].losses, abs=1e-3)  # other responses
    assert made.loader.observed()["kl"] == 0.0


def test_any_cut_of_a_minibatch_is_the_same_step(tmp_path: Path) -> None:
    """The responses, and the loss and gradient of the same rows, are equal for 1 micro-batch of 8 rows, 2 of 4, and 8 of 1."""
    seen = []
    for micro in (8, 4, 1):
        made = world(tmp_path, micro=micro, lr=3e-2)
        made.take(1)
        batches = made.loader.step(1)
        count = sum(made.objective.counts(batch)["policy"] for batch in batches)
        loss = sum(made.stepper.loss_module.eval()(batch)["policy"] for batch in batches) / count
        loss.backward()
        gradient = [parameter.grad.flatten() for parameter in made.policy.parameters() if parameter.grad is not None]
        ids = [row[mask].tolist() for batch in batches for row, mask in zip(batch.labels, batch.labels != IGNORED, strict=True)]
        seen.append((ids, loss.detach(), torch.cat(gradient)))
    for ids, loss, gradient in seen[1:]:
        assert ids == seen[0][0]
        torch.testing.assert_close(loss, seen[0][1], atol=1e-6, rtol=0)
        torch.testing.assert_close(gradient, seen[0][2], atol=1e-6, rtol=1e-4)
    assert float(seen[0][2].abs().max()) > 1e-3


def test_padding_changes_nothing() -> None:
    """Log-probabilities, values and scores of a row alone equal those in any batch, with any padding on the left."""
    value, model = critic(), policy()
    texts = (([1], [0, END]), ([2, 0, 1, 1], [1, 2, 0]), ([0, 0], [END]), ([0, 2, 1, 1, 0], [2, 0, 1, END]))
    rows = [Response(np.array(prompt), np.array(ids), {}) for prompt, ids in texts]
    together, alone = response_batch(rows, 0), [response_batch([one], 0) for one in rows]
    with inference(model):
        for shift in (0, 1, 7):
            ids, labels = (F.pad(*pair) for pair in ((together.input_ids, (shift, 0)), (together.labels, (shift, 0), "constant", IGNORED)))
            batch = Batch(ids, labels, padding_mask=F.pad(together.padding_mask, (shift, 0)))
            for of in (lambda one: token_statistics(model, one, 0.7)[0], value.values, value.scores):
                torch.testing.assert_close(of(batch), torch.cat([of(one) for one in alone]), atol=1e-6, rtol=0)
        for one, batch in zip(rows, alone, strict=True):
            ids = torch.from_numpy(np.concatenate([one.prompt, one.ids]))[None]
            logits = model.head(model(ids).hidden)[0, len(one.prompt) - 1 : -1] / 0.7
            wanted = logits.log_softmax(-1).gather(1, ids[0, len(one.prompt) :, None])[:, 0]
            torch.testing.assert_close(token_statistics(model, batch, 0.7)[0], wanted, atol=1e-6, rtol=0)


def test_the_end_is_an_action_and_nothing_behind_it_exists(tmp_path: Path) -> None:
    made = world(tmp_path)
    [batch] = world(tmp_path, micro=8, prompts=2).loader.step(0)
    counts = []
    extras = (batch.extras[name] for name in ("advantages", "log_probs"))
    for ids, labels, advantages, old in zip(batch.input_ids, batch.labels, *extras, strict=True):
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
    whole.take(3)
    tensors, state = whole.loader.state(3)
    assert whole.loader.state(4) == ({}, {})
    cut.loader.restore({name: tensor.clone() for name, tensor in tensors.items()}, state)  # its weights are those of the first step
    assert cut.loader.observed() == whole.loader.observed()
    ours, theirs = ([dict(batch.tensors()) for batch in made.loader.step(3)] for made in (cut, whole))
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    assert cut.loader.numbers(3).tolist() == whole.loader.numbers(3).tolist()

    def rows(loader: Any) -> list[list[list[float]]]:
        """Return the labels and advantages of each response of a step."""
        pairs = (pair for batch in loader.step(3) for pair in zip(batch.labels, batch.extras["advantages"], strict=True))
        return [[part[labels != IGNORED].tolist() for part in (labels, values)] for labels, values in pairs]

    before = rows(cut.loader)
    cut.loader.micro_batch_size = 1  # as after memory that ended: the same responses, and ratios that differ by rounding alone
    assert rows(cut.loader) == before
    report = cut.stepper.take(1, cut.loader.step(3), 0.0)
    assert dict(report.largest)["largest_ratio"] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="sizes"):
        cut.loader.restore(tensors | {"ids": tensors["ids"][:-1]}, state)


def test_an_iteration_whose_first_step_is_stopped_goes_on_with_the_same_beta(tmp_path: Path) -> None:
    """At the stop, the responses are sampled already, and beta is that of the next iteration."""
    whole, resumed = (world(tmp_path, PPOWorld, beta=0.2, kl_target=0.01, kl_horizon=100) for _ in range(2))
    for made in (whole, resumed):
        made.take(2)
    whole.loader.step(2)
    resumed.loader.restore(*whole.loader.state(2))
    resumed.loader.step(2)
    assert resumed.loader.observed() == whole.loader.observed()
    assert resumed.loader.state(3)[1] == whole.loader.state(3)[1]


def test_equal_rewards_are_a_step_without_a_gradient(tmp_path: Path) -> None:
    made = world(tmp_path, rules=[{"kind": "regex", "pattern": "x"}])
    [report] = made.take(1)
    assert (report.loss, report.grad_norm) == (0.0, 0.0)
    assert (made.loader.observed()["zero_advantages"], made.loader.observed()["reward"]) == (1.0, 0.0)


def test_a_response_without_an_end_has_the_reward_of_the_recipe(tmp_path: Path) -> None:
    rules = [{"kind": "regex", "pattern": "^"}]  # 1 for every text
    plain, penal = (world(tmp_path, rules=rules, no_eos_reward=value).loader for value in (None, -2.0))
    for loader in (plain, penal):
        loader.step(0)
    ended = penal.observed()["ended"]
    assert 0 < ended < 1
    assert (plain.observed()["reward"], plain.observed()["accuracy"], penal.observed()["accuracy"]) == (1.0, 1.0, ended)
    assert penal.observed()["reward"] == pytest.approx(ended - 2 * (1 - ended))


def test_the_distance_in_the_reward_is_counted_once(tmp_path: Path) -> None:
    """With beta, advantages are those of reward - beta * log(policy / reference), summed over the tokens."""
    made = world(tmp_path, beta=0.3, scale_rewards="none", lr=5e-2)
    made.take(2)
    experience = made.loader._of_step(2)
    with made.reference.in_use() as reference:
        batch = response_batch(experience.responses, 0)
        theirs = token_statistics(reference, batch, 1.0)[0].split([len(one.ids) for one in experience.responses])
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
    made, calls = world(tmp_path, micro=1), itertools.count(1)
    whole = [one.ids.tolist() for one in world(tmp_path, micro=1).loader._of_step(0).responses]
    made.loader.work = BatchWork(should_stop=lambda: next(calls) < 0)
    made.loader.step(0)
    most, made = next(calls) - 1, world(tmp_path, micro=1)
    for count in (1, most // 2, most):  # in the first forward, in the midst, before the last forward of the log-probabilities
        asked = itertools.count(1)
        made.loader.work = BatchWork(should_stop=lambda asked=asked, count=count: next(asked) >= count)
        with pytest.raises(Stopped):
            made.loader.step(0)
        assert made.loader.state(0) == ({}, {})
    made.loader.work = UNWATCHED
    assert [one.ids.tolist() for one in made.loader._of_step(0).responses] == whole


def test_a_policy_that_runs_away_ends_the_run(tmp_path: Path) -> None:
    made = world(tmp_path, kl_stop=1e-3, lr=5e-2)
    made.take(2)
    before = made.bits()
    with pytest.raises(UnhealthyError, match=r"step 3: the KL of the policy .* nats .*kl_stop"):
        made.loader.step(2)
    assert made.bits() == before


def test_the_reference_stays_what_the_policy_was(tmp_path: Path) -> None:
    made = world(tmp_path, lr=5e-2)
    before = [parameter.detach().clone() for parameter in made.policy.parameters()]
    made.take(2)
    with made.reference.in_use() as reference:
        assert all(torch.equal(*pair) for pair in zip(before, reference.parameters(), strict=True))


def test_an_iteration_on_another_device_is_that_of_the_cpu(tmp_path: Path) -> None:
    """No tensor is created on the wrong device."""
    here, there = (world(tmp_path, temperature=0.8, beta=0.1) for _ in range(2))
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

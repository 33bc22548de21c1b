"""The classic bugs of sampled responses, put in on purpose: the test that turns red for each. A test that sees no bug is none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_rollout_loader as checks
from tiny_rollouts import END
from torch import Tensor

from tfkit.adapters import FrozenReference
from tfkit.alignment import response_sampling, rollout_loader
from tfkit.objectives import grpo, ppo
from tfkit.objectives.objective import IGNORED, Batch

Patch = pytest.MonkeyPatch
Loader = rollout_loader.RolloutLoader


def dropout(patch: Patch) -> None:
    """A training step draws dropout (TRL, issue 744)."""
    for objective in (grpo.GRPO, ppo.PPO):
        patch.setattr(objective, "draws_dropout", True)


def forgotten_temperature(patch: Patch) -> None:
    """The new probabilities are those at temperature 1 (NeMo-Aligner, issue 46; OpenRLHF, pull request 853)."""
    right = grpo.response_log_probs
    for module in (grpo, ppo):
        patch.setattr(module, "response_log_probs", lambda model, batch, temperature: right(model, batch))


def mean_of_a_micro_batch(patch: Patch) -> None:
    """The loss of a micro-batch is divided by its own tokens."""
    right = grpo.clipped_loss

    def mean(log_probs: Tensor, *given: Any) -> dict[str, Tensor]:
        found = right(log_probs, *given)
        return {**found, "policy": found["policy"] / len(log_probs)}

    for module in (grpo, ppo):
        patch.setattr(module, "clipped_loss", mean)


def masked_end(patch: Patch) -> None:
    """The token that ends a response has no loss."""
    right = Loader.step

    def masked(self: Loader, n: int) -> list[Batch]:
        return [replace(one, labels=one.labels.masked_fill(one.labels == END, IGNORED)) for one in right(self, n)]

    patch.setattr(Loader, "step", masked)


def doubled_kl(patch: Patch) -> None:
    """The distance is subtracted twice (OpenRLHF, issue 768)."""
    right = Loader._group_advantages

    def twice(self: Loader, rewards: Tensor, ratios: Sequence[Tensor], baseline: Any) -> Tensor:
        return right(self, rewards, [2 * one for one in ratios], baseline)

    patch.setattr(Loader, "_group_advantages", twice)


def baseline_of_all_prompts(patch: Patch) -> None:
    """The mean is that of all responses, and not of those to the same prompt."""
    right = rollout_loader.group_advantages
    patch.setattr(rollout_loader, "group_advantages", lambda rewards, scale: right(rewards.reshape(1, -1), scale).reshape(rewards.shape))


def draws_of_a_batch(patch: Patch) -> None:
    """Each batch that is sampled begins with the same draws, so that its size changes the responses."""
    right = response_sampling.generate
    patch.setattr(response_sampling, "generate", lambda *given, first_row, **options: right(*given, first_row=0, **options))


def penalty_instead_of_replacement(patch: Patch) -> None:
    """A response without an end keeps its reward, and the constant is added."""
    right = response_sampling._rewarded

    def added(prompt: list[int], ids: list[int], *given: Any) -> response_sampling.SampledResponse:
        found = right(prompt, ids, *given)
        return found if found.ended else replace(found, reward=found.reward + 1)

    patch.setattr(response_sampling, "_rewarded", added)


def reference_that_follows(patch: Patch) -> None:
    """The reference is the model that is trained."""

    def follow(self: FrozenReference, model: Any) -> None:
        self.is_copy, self.model = False, model

    patch.setattr(FrozenReference, "__init__", follow)


def iteration_that_is_sampled_anew(patch: Patch) -> None:
    """A resumed run samples the rest of an iteration from the weights that it has reached."""
    patch.setattr(Loader, "restore", lambda self, tensors, state: None)


BUGS = {
    dropout: checks.test_the_first_ratio_of_each_iteration_is_exactly_one,
    forgotten_temperature: checks.test_the_first_ratio_of_each_iteration_is_exactly_one,
    mean_of_a_micro_batch: checks.test_any_cut_of_a_minibatch_is_the_same_step,
    masked_end: checks.test_the_end_is_an_action_and_nothing_behind_it_exists,
    doubled_kl: checks.test_the_distance_in_the_reward_is_counted_once,
    baseline_of_all_prompts: checks.test_the_distance_in_the_reward_is_counted_once,
    draws_of_a_batch: checks.test_responses_are_drawn_by_seed_iteration_prompt_and_completion_alone,
    penalty_instead_of_replacement: checks.test_a_response_without_an_end_has_the_reward_of_the_recipe,
    reference_that_follows: checks.test_the_reference_stays_what_the_policy_was,
    iteration_that_is_sampled_anew: checks.test_an_iteration_that_a_checkpoint_keeps_goes_on_with_the_same_bits,
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_is_seen(bug: Callable[[Patch], None], tmp_path: Path, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        BUGS[bug](tmp_path)

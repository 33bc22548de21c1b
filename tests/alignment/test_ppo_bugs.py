"""The classic bugs of PPO, put in on purpose: the check that turns red for each. A check that sees no bug is none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ppo_checks
import pytest
import torch
from test_grpo_bugs import dropout, forgotten_temperature, masked_end, mean_of_a_micro_batch
from torch import Tensor

from tfkit.alignment import advantages, rollout_loader
from tfkit.objectives.objective import Batch
from tfkit.objectives.score_model import ScoreModel

Patch = pytest.MonkeyPatch


def reward_on_padding(patch: Patch) -> None:
    """The score is added one place behind the last token, where there is one (TRL, issue 3750)."""

    def behind(scores: Tensor, real: Tensor) -> Tensor:
        place = real.sum(dim=1).clamp(max=real.shape[1] - 1)
        return torch.zeros(real.shape, dtype=scores.dtype).scatter(1, place[:, None], scores[:, None])

    patch.setattr(advantages, "at_ends", behind)


def doubled_kl(patch: Patch) -> None:
    """The distance is subtracted twice (OpenRLHF, issue 768)."""
    right = advantages.token_credit
    patch.setattr(rollout_loader, "token_credit", lambda *given, beta, **fields: right(*given, beta=2 * beta, **fields))


def uncentred_whitening(patch: Patch) -> None:
    """Advantages are only scaled (torchtune's `whiten`)."""
    patch.setattr(advantages, "whiten", lambda values, real: (values / values[real].std(correction=0)).masked_fill(~real, 0.0))


def whitening_of_padding(patch: Patch) -> None:
    """Padding counts as tokens of advantage 0."""
    right = advantages.whiten
    patch.setattr(advantages, "whiten", lambda values, real: right(values, torch.ones_like(real)))


def value_at_the_token(patch: Patch) -> None:
    """The value of a token is read at it, and not before it."""
    right = ScoreModel.values

    def shifted(self: ScoreModel, batch: Batch) -> Tensor:
        return right(self, replace(batch, labels=batch.labels.roll(1, dims=1)))

    patch.setattr(ScoreModel, "values", shifted)


def padding_is_read(patch: Patch) -> None:
    """The models see padding, and count it in the positions."""
    right = Batch.inputs
    patch.setattr(Batch, "inputs", lambda self: {name: one for name, one in right(self).items() if name != "padding_mask"})


BUGS = {
    reward_on_padding: ppo_checks.credit_is_in_its_place,
    doubled_kl: ppo_checks.credit_is_in_its_place,
    masked_end: ppo_checks.credit_is_in_its_place,
    uncentred_whitening: ppo_checks.advantages_are_white,
    whitening_of_padding: ppo_checks.advantages_are_white,
    forgotten_temperature: ppo_checks.first_ratios_are_one,
    dropout: ppo_checks.first_ratios_are_one,
    value_at_the_token: ppo_checks.values_are_those_before_a_token,
    padding_is_read: ppo_checks.padding_changes_nothing,
    mean_of_a_micro_batch: ppo_checks.any_cut_is_the_same_step,
}


@pytest.mark.parametrize(("bug", "check"), BUGS.items(), ids=lambda one: one.__name__)
def test_a_bug_is_seen(bug: Callable[[Patch], None], check: Callable[[Path], None], tmp_path: Path, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        check(tmp_path)

"""Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300): a policy gradient with a clipped ratio and no value model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.log_probs import response_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Observation
from tfkit.objectives.rollouts import GroupBaseline, PromptEncoder, RolloutObjective, Rollouts
from tfkit.objectives.score_model import open_gold_model, open_score_model
from tfkit.recipe.schema.rollout_sections import GRPOSection

_LARGEST_DIFFERENCE = 20.0  # the bound to which differences of log-probabilities are clamped, so that ratios stay finite


class GRPO(RolloutObjective):
    """The loss max(-A r, -A clip(r)) of each token: A is its advantage, r its probability now divided by its probability when sampled.

    The sum over all response tokens of a step, end tokens included, is divided once by the number of these tokens (DAPO, arXiv 2503.14476).
    """

    terms: Mapping[str, float] = {"policy": 1.0}
    observed: Mapping[str, Observation] = {"clip_fraction": Observation("policy"), "largest_ratio": Observation()}

    def __init__(self, section: GRPOSection, context: ModelContext):
        self.section, self.tokenizer, self.encoder = section, context.tokenizer, PromptEncoder(section, context)
        self.reward, self.gold = open_score_model(section, "reward", context), open_gold_model(section, context)
        self.clip_range = section.clip_range
        self._baseline = GroupBaseline(section.scale_rewards == "group")

    @property
    def rollouts(self) -> Rollouts:
        """The sampling of a group of responses to each prompt."""
        return Rollouts(self.section, self.tokenizer, self._baseline, self.reward, self.gold)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of response tokens."""
        return {"policy": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the clipped loss over tokens, the number of tokens whose ratio is clipped, and the largest ratio."""
        targets = batch.labels != IGNORED
        log_probs = response_log_probs(model, batch, self.section.temperature)
        if not len(log_probs):  # the batch has no response tokens
            return {"policy": log_probs.sum()}
        return clipped_loss(log_probs, batch.extras["log_probs"][targets], batch.extras["advantages"][targets], self.clip_range)


def clipped_loss(log_probs: Tensor, before: Tensor, advantages: Tensor, clip_range: float) -> dict[str, Tensor]:
    """Return PPO's policy loss (arXiv 1707.06347, eq. 7), the number of clipped ratios, and the largest ratio: (N,) each -> scalars."""
    ratios = (log_probs - before).clamp(-_LARGEST_DIFFERENCE, _LARGEST_DIFFERENCE).exp()
    clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratios, -advantages * clipped)
    detached = ratios.detach()
    return {"policy": losses.sum(), "clip_fraction": (detached != clipped.detach()).sum(), "largest_ratio": detached.max()}

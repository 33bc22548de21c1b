"""Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300): a policy gradient with a clipped ratio and no value model."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.gold_model import open_gold_model
from tfkit.objectives.objective import IGNORED, Batch, Observation
from tfkit.objectives.response_log_probs import response_log_probs
from tfkit.objectives.rollouts import GroupBaseline, PromptEncoder, RolloutObjective, Rollouts
from tfkit.objectives.score_model import open_score_model
from tfkit.recipe.schema.rollout_sections import GRPOSection

_LARGEST_DIFFERENCE = 20.0  # of log-probabilities: beyond it a ratio is no number of bf16


class GRPO(RolloutObjective):
    """max(-A r, -A clip(r)) of each token, r being the ratio of its probabilities now and when its response was sampled.

    It is summed over the tokens of all responses of a step, ends included, and divided once by their number (DAPO, arXiv 2503.14476).
    """

    terms: Mapping[str, float] = MappingProxyType({"policy": 1.0})
    observed: Mapping[str, Observation] = MappingProxyType({"clip_fraction": Observation("policy"), "largest_ratio": Observation()})

    def __init__(self, section: GRPOSection, context: ModelContext):
        self.section, self.tokenizer, self.prompt_encoder = section, context.tokenizer, PromptEncoder(section, context)
        self.reward, self.gold = open_score_model(section, "reward", context), open_gold_model(section, "gold", context)
        self.clip_range = section.clip_range
        self._baseline = GroupBaseline(section.scale_rewards == "group")

    @property
    def rollouts(self) -> Rollouts:
        """Groups of responses to each prompt."""
        return Rollouts(self.section, self.tokenizer, self.end_ids, self._baseline, self.reward, self.gold)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The tokens of the responses."""
        return {"policy": int((batch.labels != IGNORED).sum())}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """The sum over tokens of the clipped loss; how many are clipped, and the largest ratio."""
        targets = batch.labels != IGNORED
        log_probs = response_log_probs(model, batch, self.section.temperature)
        if not len(log_probs):  # prompts alone
            return {"policy": log_probs.sum()}
        return clipped_loss(log_probs, batch.extras["log_probs"][targets], batch.extras["advantages"][targets], self.clip_range)


def clipped_loss(log_probs: Tensor, before: Tensor, advantages: Tensor, clip_range: float) -> dict[str, Tensor]:
    """Return the policy's loss as PPO has it (Schulman et al. 2017, arXiv 1707.06347, eq. 7), and its observations: all (N,) -> sums."""
    ratios = (log_probs - before).clamp(-_LARGEST_DIFFERENCE, _LARGEST_DIFFERENCE).exp()
    clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
    losses = torch.maximum(-advantages * ratios, -advantages * clipped)
    seen = ratios.detach()
    return {"policy": losses.sum(), "clip_fraction": (seen != clipped.detach()).sum(), "largest_ratio": seen.max()}

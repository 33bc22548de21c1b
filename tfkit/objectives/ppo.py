"""Proximal policy optimization (arXiv 1707.06347) with a value model and, optionally, pretraining text (PPO-ptx, arXiv 2203.02155, 3.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tfkit.model.transformer import Transformer
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import ModelContext
from tfkit.objectives.grpo import clipped_loss
from tfkit.objectives.log_probs import response_log_probs
from tfkit.objectives.objective import IGNORED, Batch, Observation
from tfkit.objectives.rollouts import PretrainingMix, PromptEncoder, RolloutObjective, Rollouts, ValueBaseline
from tfkit.objectives.score_model import ScoreModel, open_gold_model, open_score_model
from tfkit.recipe.schema.rollout_sections import PPOSection


class PPO(RolloutObjective):
    """The clipped losses of policy and value, each summed over response tokens, end tokens included; and the language modelling loss on
    pretraining text, if `ptx_weight` is not 0. A step divides each sum by its number of tokens, and adds the gradients, weighted.
    """

    observed: Mapping[str, Observation] = {
        "clip_fraction": Observation("policy"),
        "largest_ratio": Observation(),
        "approximate_kl": Observation("policy"),
        "value_clip_fraction": Observation("value"),
    }

    section: PPOSection

    def __init__(self, section: PPOSection, context: ModelContext, value: ScoreModel | None):
        """`value`: the value model; None for an evaluation, which does not need it."""
        self.section, self.tokenizer, self.encoder = section, context.tokenizer, PromptEncoder(section, context)
        self.reward, self.gold = open_score_model(section, "reward", context), open_gold_model(section, context)
        self.value = value
        self.terms: Mapping[str, float] = {"policy": 1.0, "value": 1.0}
        if section.ptx_weight:
            self.terms = {**self.terms, "ptx": section.ptx_weight}
            self.pretraining = PretrainingMix(section.ptx_ratio, context.tokenizer.eos_id)

    @classmethod
    def open(cls, section: PPOSection, context: ModelContext) -> "PPO":
        """Construct the objective; with a value model if the section is for training. Raises ModelError if a model does not fit."""
        # The reward model is loaded first: if both models start from one faulty checkpoint, the error is about `reward`.
        opened = cls(section, context, None)
        value = open_score_model(section, "value", context)
        if value is not None:
            opened.value = replace(value, companion=replace(value.companion, lr=section.value_lr))
        return opened

    @property
    def companions(self) -> Sequence[Companion]:
        """The reward, gold and value models that are loaded."""
        return tuple(model.companion for model in (self.reward, self.gold, self.value) if model is not None)

    @property
    def rollouts(self) -> Rollouts:
        """The sampling of responses, with advantages from the value model."""
        section = self.section
        baseline = ValueBaseline(self.value, section.gamma, section.gae_lambda, section.kl_target, section.kl_horizon)
        return Rollouts(section, self.tokenizer, baseline, self.reward, self.gold)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of response tokens or, for a batch of pretraining text, of targets; 0 for the other terms."""
        tokens, text = int((batch.labels != IGNORED).sum()), 0
        if batch.is_pretraining and self.pretraining is not None:
            tokens, text = 0, self.pretraining.counts(batch)["lm"]
        counts = {"policy": tokens, "value": tokens, "ptx": text}
        return {term: counts[term] for term in self.terms}

    def loss(self, model: Transformer, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each term, 0 for terms without targets in the batch; and the observations."""
        zeros = dict.fromkeys(self.terms, torch.zeros((), device=batch.input_ids.device))
        if batch.is_pretraining and self.pretraining is not None:
            return {**zeros, "ptx": self.pretraining.loss(model, batch)["lm"]}
        assert self.value is not None, "an evaluation has no loss"
        targets = batch.labels != IGNORED
        log_probs, values = response_log_probs(model, batch, self.section.temperature), self.value.values(batch)
        if not len(log_probs):  # the batch has no response tokens
            return {**zeros, "policy": log_probs.sum(), "value": values.sum()}
        before, advantages, old_values, returns = (batch.extras[name][targets] for name in ("log_probs", "advantages", "values", "returns"))
        difference = (log_probs - before).detach()
        return {
            **zeros,
            **clipped_loss(log_probs, before, advantages, self.section.clip_range),
            **clipped_value_loss(values, old_values, returns, self.section.value_clip_range),
            "approximate_kl": (difference.expm1() - difference).sum(),  # the estimator k3 of KL(old || new), from the old policy's samples
        }


def clipped_value_loss(values: Tensor, before: Tensor, returns: Tensor, clip_range: float) -> dict[str, Tensor]:
    """Return the sum of 0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), and for how many tokens the second square is larger."""
    clipped = before + (values - before).clamp(-clip_range, clip_range)
    errors, clipped_errors = (values - returns).square(), (clipped - returns).square()
    return {"value": 0.5 * torch.maximum(errors, clipped_errors).sum(), "value_clip_fraction": (clipped_errors > errors).detach().sum()}

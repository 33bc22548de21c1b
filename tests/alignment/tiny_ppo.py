"""PPO with the tiny policy of tiny_rollouts, a value model and pretraining text, and with the real loader, objective and step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_rollouts import LONGEST, RULE, codec, policy, prompts

from tfkit.adapters import FrozenReference
from tfkit.alignment.rewards import Rules
from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.alignment.user_code import CodePermission
from tfkit.data import BatchSizes, StepLoader, TokenStream
from tfkit.engine.assembly.components import place_companions
from tfkit.engine.assembly.loaders import MixedLoader
from tfkit.generation.inference import inference
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import ModelContext, RowOrder
from tfkit.objectives.objective import Batch
from tfkit.objectives.ppo import PPO
from tfkit.objectives.rollouts import PromptRows
from tfkit.objectives.score_model import ScoreModel, score_model
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.rollout_sections import PPOSection
from tfkit.recipe.schema.sections import ModelSection, Recipe, TrainingSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

CPU = torch.device("cpu")
CONTEXT = 16
PROMPTS = ["a", "ab", "bac", "ccab"]
SIZES = {"prompts": 4, "completions": 4, "batch_size": 8, "micro": 4}
RULES = [{"kind": "regex", "pattern": "^", "weight": 0.7}, {"kind": "contains", "text": "b"}]
CRITIC = {"head": {"kind": "classes", "count": 1, "pool": "last"}}


def critic(shift: float = 0.25, seed: int = 7, texts: int = CONTEXT, **changes: Any) -> ScoreModel:
    """Return a value model with its own weights, for texts of this many tokens."""
    model = policy(seed, **CRITIC, **changes).eval()
    companion = Companion("value", model, "made", "a" * 64, tokenizer=codec(), facts={"reward_shift": shift}, trained=True)
    return score_model(companion, ModelContext(policy().config, codec(), [], 1, Path("policy"), sequence_length=texts))


def text() -> TokenStream:
    """Return random text over the letters, in documents."""
    random = np.random.default_rng(5)
    lengths = random.integers(3, 30, 40)
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = random.integers(0, 3, lengths.sum()).astype(np.uint16)
    return TokenStream("made", tokens, starts, lengths, separator=3, max_id=3, fingerprint="made", cached=False)


class PPOWorld:
    """The components of a training, with the same weights whenever they are made."""

    def __init__(
        self, folder: Path, texts: list[str], *, batch_size: int, micro: int, lr: float = 1e-2, value_lr: float | None = None, **fields: Any
    ):
        self.policy = policy()
        section = PPOSection.model_validate({"kind": "ppo", "rules": RULE, "value": "made", "max_new_tokens": LONGEST, **fields})
        value = critic()
        self.value = replace(value, companion=replace(value.companion, lr=value_lr))
        self.objective = PPO(section, ModelContext(self.policy.config, codec(), [], 1, folder), self.value)
        adam = AdamWSection(lr=lr, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0)
        data = DataSection(train=[SourceSection(stdlib=True)])
        recipe = Recipe(model=ModelSection(preset="gpt2"), data=data, training=TrainingSection(steps=1), optimizer=adam)
        self.companions = place_companions(recipe, self.objective, CPU, torch.float32)
        self.weights = Weights(self.policy, torch.float32)
        self.reference = FrozenReference(self.policy)
        order = RowOrder(CONTEXT, 1, batch_size, True)
        rows = PromptRows(self.objective.open_rows([(prompts(folder, self.objective, texts), 1.0)], order), self.objective.rollouts)
        self.rollouts = RolloutLoader(
            *(rows, self.objective, BatchSizes(batch_size), micro),
            policy=self.policy,
            reference=self.reference,
            rules=Rules(self.objective.rollouts.section.rules, CodePermission(every_file=True)),
            device=CPU,
            seed=1,
            uncompiled=lambda: inference(self.policy),
        )
        self.loader: StepLoader[Batch] = self.rollouts
        if (mix := self.objective.pretraining) is not None:
            self.loader = MixedLoader(self.rollouts, mix.open_rows([(text(), 1.0)], order), mix.collate, mix.ratio)
        optimizer, module = Optimizer(self.weights.trained, adam), LossModule(self.policy, self.objective)
        self.stepper = Stepper(module, self.weights, optimizer, device=CPU, seed=1, companions=self.companions)

"""Rollouts that can be enumerated: responses have at most three of four tokens, one of which ends them, and rewards come from a table."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tiny_files import write_rows
from tiny_layouts import GPT2_LAYOUT

from tfkit.adapters import FrozenReference
from tfkit.alignment.rewards import Rules
from tfkit.alignment.rollout_loader import RolloutLoader
from tfkit.alignment.user_code import CodePermission
from tfkit.data import BatchSizes, ExampleSet, TokenStream, example_set
from tfkit.data.sources.open_sources import open_source
from tfkit.engine.assembly.components import place_companions
from tfkit.engine.assembly.loaders import MixedLoader
from tfkit.generation.inference import inference
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.companion import Companion
from tfkit.objectives.context import ModelContext, RowOrder
from tfkit.objectives.grpo import GRPO
from tfkit.objectives.log_probs import response_log_probs, sequence_sums
from tfkit.objectives.ppo import PPO
from tfkit.objectives.rollouts import PromptRows, Response, response_batch
from tfkit.objectives.score_model import ScoreModel, score_model
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.rollout_sections import GRPOSection, PPOSection
from tfkit.recipe.schema.sections import ModelSection, Recipe, TrainingSection
from tfkit.tokenizer import Tokenizer
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

LETTERS = "abc"
END = len(LETTERS)  # the id of the token that ends a response
LONGEST = 3
RULE = [{"kind": "contains", "text": "a"}]
CPU, CONTEXT = torch.device("cpu"), 16
PROMPTS = ["a", "ab", "bac", "ccab"]
SIZES: dict[str, Any] = {"prompts": 4, "completions": 4, "batch_size": 8, "micro": 4}
RULES = [{"kind": "regex", "pattern": "^", "weight": 0.7}, {"kind": "contains", "text": "b"}]


def codec() -> Tokenizer:
    """Return a tokenizer of three letters and an end token."""
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)} | {"<end>": END}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(["<end>"])
    return Tokenizer.from_json(backend.to_str(), {"eos_token": "<end>"})


def policy(seed: int = 3, **changes: Any) -> Transformer:
    """Return a tiny model over the four tokens, with very unequal probabilities, and with dropout, which no test here may draw."""
    values = GPT2_LAYOUT | {"vocab_size": 4, "context_length": CONTEXT, "decoder_layers": 1, "dim": 32, "num_heads": 2}
    values |= {"head": {"tied": False}, "dropout": {"embedding": 0.3, "residual": 0.3}, "init": {"std": 0.1}}
    return build(ModelConfig.model_validate(values | changes), seed=seed)


def prompts(folder: Path, objective: Any, texts: list[str]) -> ExampleSet:
    """Return the examples of prompts, encoded as in a run, each with the answer 'ab'."""
    path = write_rows(folder / "prompts.jsonl", [{"prompt": text, "answer": "ab"} for text in texts])
    return example_set(open_source(SourceSection(path=str(path)), "all", None, roles=objective.section.roles), objective, "error")


class World:
    """The components of a training with GRPO, with the same weights whenever they are made: a policy, a real loader and stepper."""

    def __init__(self, folder: Path, texts: list[str], *, batch_size: int, micro: int, lr: float = 1e-2, seed: int = 1, **fields: Any):
        self.policy = policy()
        given = {"rules": RULE, "max_new_tokens": LONGEST, **fields}
        self.objective: Any = self.open(ModelContext(self.policy.config, codec(), [], seed, folder), given)
        adam = AdamWSection(lr=lr, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0)
        data = DataSection(train=[SourceSection(stdlib=True)])
        recipe = Recipe(model=ModelSection(preset="gpt2"), data=data, training=TrainingSection(steps=1), optimizer=adam)
        self.companions = place_companions(recipe, self.objective, CPU, torch.float32)
        self.weights = Weights(self.policy, torch.float32)
        self.reference = FrozenReference(self.policy)
        order, rollouts = RowOrder(CONTEXT, seed, batch_size, True), self.objective.rollouts
        self.rollouts = RolloutLoader(
            *(PromptRows(self.objective.open_rows([(prompts(folder, self.objective, texts), 1.0)], order), rollouts), self.objective),
            *(BatchSizes(batch_size), micro),
            policy=self.policy,
            reference=self.reference,
            rules=Rules(rollouts.section.rules, CodePermission(every_file=True)),
            device=CPU,
            seed=seed,
            uncompiled=lambda: inference(self.policy),
        )
        self.loader: Any = self.rollouts
        if (mix := self.objective.pretraining) is not None:
            self.loader = MixedLoader(self.rollouts, mix.open_rows([(pretraining_text(), 1.0)], order), mix.collate, mix.ratio)
        optimizer, module = Optimizer(self.weights.trained, adam), LossModule(self.policy, self.objective)
        self.stepper = Stepper(module, self.weights, optimizer, device=CPU, seed=1, companions=self.companions)

    def open(self, context: ModelContext, fields: dict[str, Any]) -> Any:
        return GRPO(GRPOSection.model_validate({"kind": "grpo", **fields}), context)

    def take(self, steps: int, first: int = 0, factor: float = 1.0) -> list[Any]:
        """Take this many steps, the first with this number, at this part of the learning rate; return their reports."""
        return [self.stepper.take(step + 1, self.loader.step(step), factor) for step in range(first, first + steps)]

    def bits(self) -> list[bytes]:
        """Return all that is trained."""
        return [one.detach().numpy().tobytes() for weights in self.stepper.all_weights.values() for one in weights.master.values()]


class PPOWorld(World):
    """The same with PPO: a value model and, if the section weighs it, pretraining text."""

    def open(self, context: ModelContext, fields: dict[str, Any]) -> Any:
        section, value = PPOSection.model_validate({"kind": "ppo", "value": "made", **fields}), critic()
        return PPO(section, context, replace(value, companion=replace(value.companion, lr=section.value_lr)))


def critic(shift: float = 0.25, seed: int = 7, texts: int = CONTEXT, **changes: Any) -> ScoreModel:
    """Return a value model with its own weights, for texts of this many tokens."""
    model = policy(seed, head={"kind": "classes", "count": 1, "pool": "last"}, **changes).eval()
    companion = Companion("value", model, "made", "a" * 64, tokenizer=codec(), facts={"reward_shift": shift}, trained=True)
    return score_model(companion, ModelContext(policy().config, codec(), [], 1, Path("policy"), sequence_length=texts))


def pretraining_text() -> TokenStream:
    """Return random text over the letters, in documents."""
    random = np.random.default_rng(5)
    lengths = random.integers(3, 30, 40)
    starts = np.concatenate([[0], lengths.cumsum()])
    tokens = random.integers(0, 3, lengths.sum()).astype(np.uint16)
    return TokenStream("made", tokens, starts, lengths, separator=3, max_id=3, fingerprint="made", cached=False)


def outcomes() -> list[tuple[int, ...]]:
    """Return every possible response: up to two letters and an end token, or three letters."""
    whole = [(*letters, END) for n in range(LONGEST) for letters in itertools.product(range(END), repeat=n)]
    return whole + list(itertools.product(range(END), repeat=LONGEST))


def probabilities(model: Transformer, prompt: int) -> torch.Tensor:
    """Return the probability of every response to a prompt of one token, in float64."""
    responses = [Response(np.array([prompt]), np.array(one), {}) for one in outcomes()]
    batch = response_batch(responses, 0)
    with inference(model):
        return sequence_sums(response_log_probs(model, batch).double(), batch.labels).exp()

"""Rollouts that can be enumerated: responses have at most three of four tokens, one of which ends them, and rewards come from a table."""

import itertools
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
from tfkit.data import BatchSizes, ExampleSet, example_set
from tfkit.data.sources.open_sources import open_source
from tfkit.generation.inference import inference
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.context import ModelContext, RowOrder
from tfkit.objectives.grpo import GRPO
from tfkit.objectives.log_probs import response_log_probs, sequence_sums
from tfkit.objectives.rollouts import PromptRows, Response, response_batch
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.optimizer_sections import AdamWSection
from tfkit.recipe.schema.rollout_sections import GRPOSection
from tfkit.tokenizer import Tokenizer
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

LETTERS = "abc"
END = len(LETTERS)  # the id of the token that ends a response
LONGEST = 3
RULE = [{"kind": "contains", "text": "a"}]


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
    values: dict[str, Any] = GPT2_LAYOUT | {
        "vocab_size": 4,
        "context_length": 16,
        "decoder_layers": 1,
        "dim": 32,
        "num_heads": 2,
        "head": {"tied": False},
        "dropout": {"embedding": 0.3, "residual": 0.3},
        "init": {"std": 0.1},
    }
    return build(ModelConfig.model_validate(values | changes), seed=seed)


def prompts(folder: Path, objective: GRPO, texts: list[str]) -> ExampleSet:
    """Return the examples of prompts, encoded as in a run, each with the answer 'ab'."""
    path = folder / "prompts.jsonl"
    write_rows(path, [{"prompt": text, "answer": "ab"} for text in texts])
    return example_set(open_source(SourceSection(path=str(path)), "all", None, roles=objective.section.roles), objective, "error")


class World:
    """A policy, its reference, and a real loader and stepper."""

    def __init__(self, folder: Path, texts: list[str], *, batch_size: int, micro: int, lr: float = 1e-2, seed: int = 1, **fields: Any):
        self.policy = policy()
        section = GRPOSection.model_validate({"kind": "grpo", "rules": RULE, "max_new_tokens": LONGEST, **fields})
        self.objective = GRPO(section, ModelContext(self.policy.config, codec(), [], seed, folder))
        stored = prompts(folder, self.objective, texts)
        rows = PromptRows(self.objective.open_rows([(stored, 1.0)], RowOrder(16, seed, batch_size, True)), self.objective.rollouts)
        self.weights = Weights(self.policy, torch.float32, None)
        self.reference = FrozenReference(self.policy)
        cpu = torch.device("cpu")
        self.loader = RolloutLoader(
            rows,
            self.objective,
            BatchSizes(batch_size),
            micro,
            policy=self.policy,
            reference=self.reference,
            rules=Rules(self.objective.rollouts.section.rules, CodePermission(every_file=True)),
            device=cpu,
            seed=seed,
            uncompiled=lambda: inference(self.policy),
        )
        adam = AdamWSection(lr=lr, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0)
        self.stepper = Stepper(
            LossModule(self.policy, self.objective), self.weights, Optimizer(self.weights.trained, adam), device=cpu, seed=1
        )


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

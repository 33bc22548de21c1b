"""Preferences for the tests of reward models and of DPO: rows, their examples, batches, and a tiny decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_examples import TWO_LAYERS, texts, tokenizer
from tiny_layouts import LLAMA_LAYOUT

from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer
from tfkit.objectives.context import ModelContext
from tfkit.objectives.dpo import DPO, open_dpo
from tfkit.objectives.reward import Reward, fit_tokenizer, open_reward
from tfkit.recipe.schema.preference_sections import DPOSection, RewardSection

LENGTH = TWO_LAYERS["context_length"]
DECODER: dict[str, Any] = LLAMA_LAYOUT | TWO_LAYERS | {"vocab_size": 301, "num_heads": 6, "num_kv_heads": 2}
DECODER |= {"head": {"tied": True}, "dropout": {"residual": 0.2}}
SCORER = DECODER | {"head": {"kind": "classes", "count": 1, "pool": "last", "bias": False}}


def reward_objective(config: dict[str, Any] = SCORER, **fields: Any) -> Reward:
    section = RewardSection.model_validate({"kind": "reward", **fields})
    codec = fit_tokenizer(section, tokenizer("byte_bpe"), is_finished=True)
    return open_reward(section, ModelContext(ModelConfig.model_validate(config), codec, (), 1, Path("base")))


def dpo_objective(**fields: Any) -> DPO:
    section = DPOSection.model_validate({"kind": "dpo", **fields})
    return open_dpo(section, ModelContext(ModelConfig.model_validate(DECODER), tokenizer("byte_bpe"), (), 1, Path("base")))


def ranked_rows(count: int, most: int = 5) -> list[dict[str, Any]]:
    """Return prompts of unequal lengths, with two to `most` different completions each, some of which are tied."""
    random = np.random.default_rng(3)
    rows = []
    for number, prompt in enumerate(texts(count, seed=1, longest=5)):
        size = int(random.integers(2, most + 1))
        completions = [f" {place} {text}" for place, text in enumerate(texts(size, seed=number + 20, longest=4))]
        ranks = random.permutation(size)
        rows.append({"prompt": prompt, "completions": completions, "ranks": [int(rank) // (2 if size > 3 else 1) for rank in ranks]})
    return rows


def paired_rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": row["prompt"], "chosen": row["completions"][0], "rejected": row["completions"][1]} for row in ranked_rows(count)]


def count_rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each following forward pass of a model adds its number of rows."""
    read: list[int] = []
    forward = Transformer.forward

    def counting(self: Transformer, input_ids: Any, **others: Any) -> Any:
        read.append(len(input_ids))
        return forward(self, input_ids, **others)

    monkeypatch.setattr(Transformer, "forward", counting)
    return read

"""Tiny models, rows with document boundaries, and steppers, for the tests of this folder."""

from typing import Any

import numpy as np
import torch
from tiny_layouts import GPT2_LAYOUT, LLAMA_LAYOUT

from tfkit.adapters import add_lora
from tfkit.data import Loader, PackedRows, TokenStream
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build
from tfkit.objectives.causal_lm import CausalLM
from tfkit.objectives.objective import Batch
from tfkit.recipe.schema.optimizer_sections import AdamWSection, OptimizerSection
from tfkit.recipe.schema.sections import LoraSection
from tfkit.training.loss_module import LossModule
from tfkit.training.optimizer import Optimizer
from tfkit.training.precision import Weights
from tfkit.training.step import Stepper

GPT2: dict[str, Any] = GPT2_LAYOUT | {"vocab_size": 53, "context_length": 12, "decoder_layers": 2, "dim": 24, "num_heads": 3}
GPT2 |= {"init": {"std": 0.3}}
LLAMA = GPT2 | LLAMA_LAYOUT | {"num_heads": 6, "num_kv_heads": 2, "hidden_dim": 40, "attention": {}}


def config(values: dict[str, Any], **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(values | changes)


def stream(vocab_size: int = 53, documents: int = 40, seed: int = 5) -> TokenStream:
    """Return documents of 1 to 30 random ids, each with a bos of its own, so that no id ends one document and begins the next."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 31, documents)
    tokens = random.integers(1, vocab_size, lengths.sum()).astype(np.uint16)
    starts = np.concatenate([[0], lengths.cumsum()])
    return TokenStream("made", tokens, starts, lengths, separator=0, max_id=vocab_size - 1, fingerprint="made", cached=False)


def batches(
    objective: CausalLM, micro_batch_size: int, step: int = 0, *, batch_size: int = 8, length: int = 12, seed: int = 1
) -> list[Batch]:
    """Return the micro-batches of one step of the random stream."""
    return Loader(PackedRows([(stream(), 1.0)], length, seed), objective.collate, batch_size, micro_batch_size).step(step)


def stepper(
    model: Transformer,
    *,
    objective: CausalLM | None = None,
    section: OptimizerSection | None = None,
    dtype: torch.dtype = torch.float32,
    ema_decay: float | None = None,
) -> Stepper:
    """Return a Stepper, with weights and optimizer, around a model."""
    weights = Weights(model, dtype, ema_decay)
    optimizer = Optimizer(weights.master, section or AdamWSection(lr=1e-2))
    return Stepper(LossModule(model, objective or CausalLM()), weights, optimizer, device=torch.device("cpu"), seed=1)


def fresh(values: dict[str, Any] = GPT2, **changes: Any) -> Transformer:
    """Build a model with the same random weights at every call."""
    return build(config(values, **changes), seed=3)


def adapted(values: dict[str, Any] = GPT2, dropout: float = 0.0) -> Transformer:
    """Build a model with LoRA matrices."""
    model = fresh(values)
    add_lora(model, LoraSection(rank=3, alpha=4, dropout=dropout, targets=["q_proj", "v_proj", "down_proj"]), seed=1)
    return model


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Return copies to compare bit for bit, whatever the numbers are."""
    return {
        name: tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        for name, tensor in tensors.items()
    }

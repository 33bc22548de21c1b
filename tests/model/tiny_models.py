"""Tiny random models of the families' shapes, and of mixed ones."""

from typing import Any

import torch
from tiny_layouts import GPT2_LAYOUT, LLAMA_LAYOUT

from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, build

VOCABULARY, CONTEXT = 53, 24
_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "decoder_layers": 2, "dim": 24, "hidden_dim": 44}
_GPT2: dict[str, Any] = GPT2_LAYOUT | {"num_heads": 3}
_LLAMA: dict[str, Any] = LLAMA_LAYOUT | {"num_heads": 6, "num_kv_heads": 2}
MODELS = {"gpt2": _GPT2, "llama": _LLAMA, "rotary with LayerNorm": _GPT2 | {"position": {"kind": "rotary"}}}


def tiny_config(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(_SIZES | MODELS[name] | {"init": {"std": 0.35}} | changes)


def tiny_model(name: str, **changes: Any) -> Transformer:
    """Build a model with weights of std 0.35, biases and norms off their 0 and 1 too; in eval mode."""
    model = build(tiny_config(name, **changes), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))

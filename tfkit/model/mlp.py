"""The feed-forward sublayer: plain (arXiv 1706.03762) or gated (arXiv 2002.05202)."""

from collections.abc import Callable

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.dropout import build_dropout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Mlp(nn.Module):
    """down(activation(up x)), or gated: down(activation(gate x) * up x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp.activation]
        self.gate_proj = nn.Linear(config.dim, config.hidden_dim, bias=config.mlp.bias) if config.mlp.gated else None
        self.gate_up: nn.Module | None = None  # of answering_linear.py: both projections of x in one product, which replaces them
        self.up_proj = nn.Linear(config.dim, config.hidden_dim, bias=config.mlp.bias)
        self.dropout = build_dropout(config.dropout.hidden)
        self.down_proj = nn.Linear(config.hidden_dim, config.dim, bias=config.mlp.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.gate_up is not None:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            hidden = self.activation(gate) * up
        elif self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))  # (B, T, F)
        else:
            hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)  # (B, T, F)
        return self.down_proj(self.dropout(hidden))

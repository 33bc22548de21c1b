r"""Blocks, and how a sublayer joins the residual stream.

    pre-norm (GPT-2, Llama):    x ---------------------------(+)--->
                                 \--> norm --> op --> dropout --^

The stack ends in one more norm, since nothing has normed the sum of all the sublayers' outputs.
"""

from typing import Any

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tfkit.model.attention import SelfAttention, View
from tfkit.model.config import ModelConfig
from tfkit.model.dropout import build_dropout
from tfkit.model.mlp import Mlp
from tfkit.model.norm import build_norm


class Sublayer(nn.Module):
    """An operation on the residual stream with its norm: the only place that knows where the norm stands."""

    def __init__(self, op: nn.Module, config: ModelConfig):
        super().__init__()
        self.norm = build_norm(config.dim, config.norm)
        self.op = op
        self.dropout = build_dropout(config.dropout.residual)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, T, D) -> (B, T, D); `context` goes to the operation."""
        return x + self.dropout(self.op(self.norm(x), *context))


class Block(nn.Module):
    """Self-attention, then the MLP."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attention = Sublayer(SelfAttention(config, layer), config)
        self.mlp = Sublayer(Mlp(config), config)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.mlp(self.self_attention(x, view))


class Stack(nn.Module):
    """Blocks one after the other, and the final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.decoder_layers))
        self.norm = build_norm(config.dim, config.norm)
        self.activation_checkpointing = False  # set by training: compute each block again in the backward pass

    def forward(self, x: Tensor, view: View) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, view, use_reentrant=False)
            else:
                x = block(x, view)
        return self.norm(x)

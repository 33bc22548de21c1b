r"""Blocks, and the placement of norms around each sublayer.

pre (GPT-2, Llama, T5)    x ---------------------------(+)-->            the stack ends in one more norm, because the sum of
                           \--> norm --> op --> dropout --^               all sublayers' outputs is not normalized
post (2017, GPT, BERT)    x -----------------(+)--> norm -->
                           \--> op --> dropout --^
sandwich (Gemma 2)        x ----------------------------------------(+)-->
                           \--> norm --> op --> dropout --> post_norm --^
reordered (OLMo 2)        x -------------------------------(+)-->
                           \--> op --> dropout --> norm --^
parallel (GPT-NeoX)       x -----------------------(+)-->       all sublayers of a block begin at the same x
                           \--> norm --> op --> dropout --^
"""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tfkit.model.attention import Attention, AttentionContext
from tfkit.model.config import ModelConfig
from tfkit.model.experts import Experts
from tfkit.model.mlp import Mlp
from tfkit.model.norm import build_dropout, build_norm
from tfkit.model.relative_position import DistanceVectors, RelativeBias


class Sublayer(nn.Module):
    """An operation on the residual stream, with dropout and the norms that norm.placement requires."""

    def __init__(self, op: nn.Module, config: ModelConfig, *, is_first: bool = False):
        super().__init__()
        self.placement = config.norm.placement
        self.norm = nn.Identity() if is_first and not config.norm.first else build_norm(config.dim, config.norm)
        self.op = op
        self.dropout = build_dropout(config.dropout.residual)
        self.post_norm = build_norm(config.dim, config.norm) if self.placement == "sandwich" else None

    @property
    def norms_input(self) -> bool:
        """Whether the operation reads the normed residual stream rather than the stream itself."""
        return self.placement in ("pre", "sandwich", "parallel")

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, T, D) -> (B, T, D); `context` is passed to the operation."""
        if self.placement == "post":
            return self.norm(x + self.dropout(self.op(x, *context)))
        return x + self.addend(x, *context)

    def addend(self, x: Tensor, *context: Any) -> Tensor:
        """(B, T, D) -> (B, T, D): the term that is added to the residual stream, in placements other than post."""
        out = self.dropout(self.op(self.norm(x) if self.norms_input else x, *context))
        last = self.norm if self.placement == "reordered" else self.post_norm
        return out if last is None else last(out)


class Block(nn.Module):
    """Self-attention; in the decoder of an encoder-decoder, cross-attention; and the MLP or a mixture of experts."""

    def __init__(self, config: ModelConfig, layer: int, cross: bool = False):
        super().__init__()
        self.self_attention = Sublayer(Attention(config, layer), config, is_first=layer == 0)
        self.cross_attention = Sublayer(Attention(config, layer, cross=True), config) if cross else None
        self.has_experts = config.has_experts(layer)
        self.mlp = Sublayer(Experts(config) if self.has_experts else Mlp(config, config.hidden_dim), config)
        self.parallel = config.norm.placement == "parallel"

    def forward(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, list[Tensor]]:
        """(B, T, D) -> (B, T, D), and a list with the router's logits (B, T, N), if any: FSDP must see them among the outputs."""
        routed: list[Tensor] = []
        of_mlp = (routed,) if self.has_experts else ()
        if self.parallel:
            attended = self.self_attention.addend(x, context)
            if self.cross_attention is not None:
                attended = attended + self.cross_attention.addend(x, context)
            return self.mlp.addend(x, *of_mlp) + attended + x, routed
        x = self.self_attention(x, context)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context)
        return self.mlp(x, *of_mlp), routed


class Stack(nn.Module):
    """A sequence of blocks, with an optional final norm and an optional position bias."""

    def __init__(self, config: ModelConfig, layers: int, *, causal: bool, cross: bool = False):
        super().__init__()
        self.causal = causal
        self.position_bias: RelativeBias | DistanceVectors | None = None
        if config.relative:
            self.position_bias = RelativeBias(config.relative, config.num_heads, not causal)
        elif config.position.kind == "disentangled":
            self.position_bias = DistanceVectors(config.position, config)
        self.blocks = nn.ModuleList(Block(config, layer, cross) for layer in range(layers))
        self.norm = build_norm(config.dim, config.norm) if config.final_norm else None
        self.dropout = build_dropout(config.dropout.final)
        self.activation_checkpointing = False  # True: recompute each block in the backward pass (arXiv 1604.06174)

    def forward(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, list[Tensor]]:
        """(B, T, D) -> (B, T, D), and the logits (B, T, N) of each router."""
        routed: list[Tensor] = []
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, logits = checkpoint(block, x, context, use_reentrant=False)
            else:
                x, logits = block(x, context)
            routed += logits
        return self.dropout(x if self.norm is None else self.norm(x)), routed

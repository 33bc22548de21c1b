"""Token embeddings, and the position and segment vectors added to them before the first block."""

import math

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.norm import build_dropout, build_norm


class Embedding(nn.Module):
    """tokens[id], optionally scaled, plus optional position and segment vectors, then an optional norm, dropout and projection.

    Encoder and decoder share this module. If it has learned positions or a norm (BART), they share only its token vectors, and the
    attribute `decoder` is a second such module for the decoder.
    """

    def __init__(self, config: ModelConfig, tokens: nn.Embedding | None = None):
        """`tokens`: the encoder's token vectors, if this module is for the decoder alone; None: build token vectors."""
        super().__init__()
        width = config.embedding_dim
        self.width, self.position, self.scale = width, config.position, math.sqrt(config.dim) if config.embedding.scale else None
        self.tokens: nn.Embedding
        if tokens is None:
            self.tokens = _table(config.vocab_size, width)
        else:  # not registered as a submodule: the vectors are saved and counted only with the encoder's embedding
            object.__setattr__(self, "tokens", tokens)
        self.positions = _table(config.position_rows, width) if config.position_rows else None
        self.segments = _table(config.embedding.segments, width) if config.embedding.segments else None
        self.norm = build_norm(width, config.norm) if config.embedding.norm else None
        self.dropout = build_dropout(config.dropout.embedding)
        self.projection = nn.Linear(width, config.dim) if config.embedding.dim else None
        self.decoder = Embedding(config, self.tokens) if tokens is None and config.embeds_apart else None

    def forward(self, input_ids: Tensor, position_ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """(B, T) ids, (T,) or (B, T) position numbers, (B, T) segments (None: all 0) -> (B, T, D)."""
        x = self.tokens(input_ids)  # (B, T, D)
        if self.scale is not None:
            x = x * torch.tensor(self.scale, dtype=x.dtype)  # the scale is first rounded to the weights' type, as in Hugging Face
        if self.position.kind == "sinusoidal":
            x = x + sinusoids(position_ids, self.width, self.position.layout, x.dtype)  # plus (T, D) or (B, T, D)
        if self.position.kind == "learned" and self.positions is not None:
            x = x + self.positions(position_ids + self.position.offset if self.position.offset else position_ids)
        if self.segments is not None:
            if segment_ids is None or self.segments.num_embeddings == 1:  # with one segment vector, both texts of a pair get it
                segment_ids = torch.zeros_like(input_ids)
            x = x + self.segments(segment_ids)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        return x if self.projection is None else self.projection(x)


def _table(rows: int, dim: int) -> nn.Embedding:
    """Build an uninitialized table (rows, D): torch's initialization on the meta device would import its compiler, which takes a second."""
    return nn.Embedding(rows, dim, _weight=torch.empty(rows, dim))


def sinusoids(position_ids: Tensor, dim: int, layout: str, dtype: torch.dtype) -> Tensor:
    """Return sin and cos of position / 10000^(2i / D) (arXiv 1706.03762), in the order `layout`: (..., T, D), computed in float32."""
    pairs = torch.arange(0, dim, 2, dtype=torch.float32, device=position_ids.device)  # (D / 2,)
    angles = position_ids[..., None].float() / 10_000 ** (pairs / dim)  # (..., T, D / 2)
    halves = angles.sin(), angles.cos()
    return (torch.stack(halves, dim=-1).flatten(-2) if layout == "interleaved" else torch.cat(halves, dim=-1)).to(dtype)  # (..., T, D)

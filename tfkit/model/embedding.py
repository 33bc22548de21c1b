"""From ids to vectors: the token embedding, and learned positions where a model has them."""

import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.dropout import build_dropout


class Embedding(nn.Module):
    """tokens[id], plus positions[p] if they are learned."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.context_length, config.dim) if config.position.kind == "learned" else None
        self.dropout = build_dropout(config.dropout.embedding)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(B, T) ids and (T,) or (B, T) positions -> (B, T, D)."""
        x = self.tokens(input_ids)
        if self.positions is not None:
            x = x + self.positions(positions)
        return self.dropout(x)

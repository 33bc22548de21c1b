"""From hidden states to logits."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.config import ModelConfig


class LanguageModelHead(nn.Module):
    """A logit for each entry of the vocabulary, by a matrix of its own or by the token embedding."""

    def __init__(self, config: ModelConfig, tokens: nn.Embedding):
        super().__init__()
        self.output = None if config.head.tied else nn.Linear(config.dim, config.vocab_size, bias=False)
        # Held without being registered: the parameter belongs to the embedding, and is saved and counted there alone.
        self._tokens: nn.Embedding
        object.__setattr__(self, "_tokens", tokens)

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, D)."""
        owner = self._tokens if self.output is None else self.output
        return owner.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return F.linear(hidden, self.weight)

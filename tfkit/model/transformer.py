"""The Transformer (arXiv 1706.03762) of every system: Embedding -> Stack -> Head."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.attention import View
from tfkit.model.cache import KeyValueCache
from tfkit.model.config import ModelConfig
from tfkit.model.embedding import Embedding
from tfkit.model.head import LanguageModelHead
from tfkit.model.init import initialize
from tfkit.model.masks import causal_mask
from tfkit.model.position import Where, count_positions, rotation_at
from tfkit.model.stack import Stack


@dataclass
class Output:
    """What a forward gives. Losses work on `hidden`; the logits, which can be huge, are made when first read."""

    hidden: Tensor  # (B, T, D), after the final norm
    head: LanguageModelHead

    @cached_property
    def logits(self) -> Tensor:
        """(B, T, V)."""
        return self.head(self.hidden)


class Transformer(nn.Module):
    """A decoder-only Transformer. Its parameters are not drawn yet: use `build`, or load them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.decoder = Stack(config)
        self.head = LanguageModelHead(config, self.embedding.tokens)

    def forward(
        self,
        input_ids: Tensor,
        *,
        padding_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Output:
        """Ids (B, T) to hidden states (B, T, D).

        `padding_mask`: True = real token, (B, T), or (B, cache.length + T) with a cache. `document_ids` (B, T): equal numbers see each
        other. Raises ValueError if the sequence is longer than the context.
        """
        length, offset = input_ids.shape[1], cache.length if cache else 0
        if offset + length > self.config.context_length:
            raise ValueError(f"{offset + length} tokens do not fit the model's context of {self.config.context_length}")
        where = Where(length, offset, input_ids.device, padding_mask, document_ids)
        positions = count_positions(where)
        x = self.embedding(input_ids, positions)  # (B, T, D)
        rotation = None
        if self.config.position.kind == "rotary":
            rotation = rotation_at(positions, self.config.head_dim, self.config.position.theta, x.dtype)
        x = self.decoder(x, View(causal_mask(where), rotation, cache))
        if cache:
            cache.advance(length)
        return Output(x, self.head)


def build(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> Transformer:
    """A Transformer with random float32 weights, the same on every device for the same seed."""
    with torch.device("meta"):  # nothing is allocated or drawn twice
        model = Transformer(config)
    model.to_empty(device="cpu")
    initialize(model, config, torch.Generator().manual_seed(seed))
    return model.to(device)

"""Output heads of tasks: classes of a text, tags of its tokens, and the span of an answer; and a head without logits."""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.config.head_config import ClassesHeadConfig, NoHeadConfig, SpansHeadConfig, TagsHeadConfig
from tfkit.model.head import Head, last_real
from tfkit.model.norm import build_dropout


class ClassesHead(Head):
    """A logit for each class of a whole text, read at its first token, at its last, or from the mean of all its tokens."""

    def __init__(self, config: ModelConfig, head: ClassesHeadConfig):
        super().__init__()
        squashes: dict[str | None, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}
        self.pool, self.squash = head.pool, squashes.get(head.dense)
        self.pooler = nn.Linear(config.dim, config.dim) if self.squash else None
        if head.dense == "normed":
            self.build_transform(config, bias=False, width=config.dim)
        self.dropout = build_dropout(config.dropout.head)
        self.classes = nn.Linear(config.dim, head.count, bias=head.bias)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, classes)."""
        pool = {"last": last_real, "mean": mean_of_real}.get(self.pool)
        return self.of_states(hidden[:, 0] if pool is None else pool(hidden, padding_mask))

    def of_states(self, states: Tensor) -> Tensor:
        """Return the logits of each text from its pooled hidden state: (..., D) -> (..., classes)."""
        states = self.transformed(states)
        if self.pooler is not None and self.squash is not None:
            states = self.squash(self.pooler(states))
        return self.classes(self.dropout(states))


class TagsHead(Head):
    """A logit for each tag, at every token."""

    def __init__(self, config: ModelConfig, head: TagsHeadConfig):
        super().__init__()
        if head.dense:
            self.build_transform(config, bias=False, width=config.dim)
        self.dropout = build_dropout(config.dropout.head)
        self.tags = nn.Linear(config.dim, head.count)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, tags)."""
        return self.tags(self.dropout(self.transformed(hidden)))


class SpansHead(Head):
    """Two logits at every token, for the beginning and for the end of an answer; as in BERT, without dropout before the output layer."""

    def __init__(self, config: ModelConfig, head: SpansHeadConfig):
        super().__init__()
        if head.dense:
            self.build_transform(config, bias=False, width=config.dim)
        self.spans = nn.Linear(config.dim, 2)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, 2)."""
        return self.spans(self.transformed(hidden))


class NoHead(Head):
    """No head: the model returns hidden states and, with a pooler, BERT's vector of the whole text."""

    def __init__(self, config: ModelConfig, head: NoHeadConfig):
        super().__init__()
        self.pooler = nn.Linear(config.dim, config.dim) if head.pooler else None

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Raise ValueError: there are no logits."""
        raise ValueError("this model has no head: it returns hidden states and no logits")

    def extra(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, D): the vector of the text, from its first token."""
        return super().extra(hidden) if self.pooler is None else torch.tanh(self.pooler(hidden[:, 0]))


def mean_of_real(hidden: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D): the mean of the hidden states of each row's tokens that are not padding."""
    if padding_mask is None:
        return hidden.mean(dim=1)
    return (hidden * padding_mask[..., None]).sum(dim=1) / padding_mask.sum(dim=1, keepdim=True)

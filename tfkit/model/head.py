"""Output heads over the vocabulary, for the next token or a masked one. task_heads.py has the heads for tasks."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.config.head_config import LanguageModelHeadConfig, MaskedLanguageModelHeadConfig
from tfkit.model.mlp import ACTIVATIONS
from tfkit.model.norm import build_dropout, build_norm


class Head(nn.Module):
    """A map from hidden states (B, T, D) and the mask of real tokens (B, T; None: all are real) to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.transform: nn.Module | None = None

    def build_transform(self, config: ModelConfig, bias: bool, width: int) -> None:
        """Build a dense layer of output width `width`, the MLP's activation and a norm, which `transformed` applies."""
        self.transform = nn.Linear(config.dim, width, bias=bias)
        self.activation = ACTIVATIONS[config.mlp.activation]
        self.norm = build_norm(width, config.norm)

    def transformed(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., width): the hidden states after the dense layer, activation and norm; unchanged in a head without these."""
        return hidden if self.transform is None else self.norm(self.activation(self.transform(hidden)))

    def extra(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the head's second output, such as the next-sentence logits. Raise ValueError if the head has none."""
        raise ValueError("this head has no output other than its logits")


class VocabularyHead(Head):
    """Logits over the vocabulary: softcap(prepare(hidden) weight^T + bias). `tied`: the weight is that of the token embedding."""

    softcap: float | None = None

    def __init__(self, config: ModelConfig, tokens: nn.Embedding, *, tied: bool, bias: bool):
        super().__init__()
        self.product: nn.Module | None = None  # replaces weight and bias if answering_linear.py has converted them
        self.output = None if tied else nn.Linear(config.embedding_dim, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if bias else None
        # Not registered as a submodule: the matrix is saved and counted only with the embedding.
        self._tokens: nn.Embedding
        object.__setattr__(self, "_tokens", tokens)

    @property
    def weight(self) -> Tensor:
        """The output matrix (V, embedding_dim). There is none after answering_linear.py has converted the model for inference alone."""
        assert self.product is None
        owner = self._tokens if self.output is None else self.output
        return owner.weight

    def prepare(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., embedding_dim): the input of the output matrix."""
        return self.transformed(hidden)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., V)."""
        prepared = self.prepare(hidden)
        logits = F.linear(prepared, self.weight, self.bias) if self.product is None else self.product(prepared)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class LanguageModelHead(VocabularyHead):
    """The causal language model's head, with optional scale, bias and soft cap, and GPT's optional score of a whole sequence."""

    def __init__(self, config: ModelConfig, head: LanguageModelHeadConfig, tokens: nn.Embedding):
        super().__init__(config, tokens, tied=head.tied, bias=head.bias)
        self.scale, self.softcap = head.scale, head.softcap
        self.dropout = build_dropout(config.dropout.head)
        self.choice = nn.Linear(config.dim, 1) if head.choices else None

    def prepare(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return hidden if self.scale is None else hidden * self.scale

    def extra(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, 1): the score of a sequence, read at its last token."""
        return super().extra(hidden) if self.choice is None else self.choice(self.dropout(last_real(hidden, padding_mask)))


class MaskedLanguageModelHead(VocabularyHead):
    """BERT's head: a dense layer, the MLP's activation and a norm before the output matrix; and an optional next-sentence classifier."""

    def __init__(self, config: ModelConfig, head: MaskedLanguageModelHeadConfig, tokens: nn.Embedding):
        super().__init__(config, tokens, tied=head.tied, bias=True)
        self.build_transform(config, head.dense_bias, config.embedding_dim)
        self.pooler = nn.Linear(config.dim, config.dim) if head.next_sentence else None
        self.next_sentence = nn.Linear(config.dim, 2) if head.next_sentence else None

    def extra(self, hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, 2): logits of class 0, the second text follows the first, and class 1, it does not (arXiv 1810.04805, 3.1)."""
        if self.pooler is None or self.next_sentence is None:
            return super().extra(hidden)
        return self.next_sentence(torch.tanh(self.pooler(hidden[:, 0])))  # (B, D) -> (B, 2)


def vocabulary_head(head: Head) -> VocabularyHead:
    """Return the head as a `VocabularyHead`. Raises ValueError if it is of another kind."""
    if not isinstance(head, VocabularyHead):
        raise ValueError(f"a {type(head).__name__} gives no distribution over the vocabulary")
    return head


def last_real(hidden: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D): the hidden state of each row's last token that is not padding, on whichever side the padding is."""
    if padding_mask is None:
        return hidden[:, -1]
    positions = torch.arange(hidden.shape[1], device=hidden.device) * padding_mask.long()  # (B, T), 0 for padding
    return hidden[torch.arange(len(hidden), device=hidden.device), positions.argmax(dim=1)]

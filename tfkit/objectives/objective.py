"""What the loop knows of an objective: batches, counts and sums. A loss is never a mean here.

An objective gives, for each of its terms, the sum of the losses of a micro-batch and how many targets went into it. The step adds both
up over its micro-batches (and, some day, ranks) and divides once, so that 1 x 8, 8 x 1 and 4 x 2 micro-batches are the same step.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

IGNORED = -100  # the label of a position that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows. None: the model is given no such thing."""

    input_ids: Tensor  # (B, T)
    labels: Tensor  # (B, T); (B, T') of an encoder-decoder; (B,) for whole texts. IGNORED where there is no loss
    document_ids: Tensor | None = None  # (B, T): tokens with equal numbers see each other; None: every row is one document
    padding_mask: Tensor | None = None  # (B, T), True = real token; None: all are
    segment_ids: Tensor | None = None  # (B, T): the text of a pair that a token is in
    decoder_input_ids: Tensor | None = None  # (B, T')
    decoder_padding_mask: Tensor | None = None  # (B, T')
    more: Mapping[str, Tensor] = field(default_factory=dict)  # what further terms need, (B, ...)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        ahead = device.type == "cuda"  # what CUDA still computes is not waited for; elsewhere a copy under way may be read too early
        moved = {name: tensor.to(device, non_blocking=ahead) for name, tensor in self._own()}
        return replace(self, **moved, more={name: tensor.to(device, non_blocking=ahead) for name, tensor in self.more.items()})

    def inputs(self) -> dict[str, Tensor]:
        """What the Transformer is called with, by name."""
        return {name: tensor for name, tensor in self._own() if name != "labels"}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, by name, in a fixed order."""
        yield from self._own()
        yield from sorted(self.more.items())

    @property
    def tokens(self) -> int:
        """Real tokens, of both sides of an encoder-decoder."""
        source = self.input_ids.numel() if self.padding_mask is None else int(self.padding_mask.sum())
        return source + self.written

    @property
    def written(self) -> int:
        """Real tokens of the decoder's side of an encoder-decoder; 0 of others."""
        if self.decoder_input_ids is None:
            return 0
        mask = self.decoder_padding_mask
        return self.decoder_input_ids.numel() if mask is None else int(mask.sum())

    def corner(self, length: int) -> "Batch":
        """The first row, as far as `length`, of a batch whose tensors are all (B, T)."""
        cut: dict[str, Any] = {name: tensor[:1, :length] for name, tensor in self.tensors()}
        return Batch(**cut)

    def _own(self) -> Iterator[tuple[str, Tensor]]:
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


_TENSORS = (
    *("input_ids", "labels", "document_ids", "padding_mask", "segment_ids"),
    *("decoder_input_ids", "decoder_padding_mask"),
)


class Sum(NamedTuple):
    """Something added up over rows, and over how many targets."""

    total: float
    targets: int

    def __add__(self, other: object) -> "Sum":
        """Both together."""
        assert isinstance(other, Sum)
        return Sum(self.total + other.total, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """A target's share; NaN of none."""
        return self.total / self.targets if self.targets else math.nan


class Objective(Protocol):
    """A way to train. Its section of the recipe says what it reads of a row, and which models it is for."""

    @property
    def terms(self) -> Mapping[str, float]:
        """The weight of each part of the loss."""

    def collate(self, rows: Any) -> Batch:
        """Rows of the data room to a batch on the CPU."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many targets each term has, without a forward."""

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses, a scalar with a gradient."""

    def measure(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """Of a batch that is only judged: each term's loss under its name, and what else is told (accuracy)."""

    def metrics(self, sums: Mapping[str, Sum]) -> dict[str, float]:
        """What `measure` gave, added up over all batches, in the field's own words; `loss` is among them."""


def weighted_loss(terms: Mapping[str, float], sums: Mapping[str, Sum]) -> float:
    """The loss that the terms make together."""
    return sum(weight * sums[term].mean for term, weight in terms.items())


def perplexity(loss: float) -> float:
    """Of a loss in nats; infinite beyond float64."""
    return math.exp(loss) if not loss > 700 else math.inf

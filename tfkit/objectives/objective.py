"""What the loop knows of an objective: batches, counts and sums. A loss is never a mean here.

An objective gives, for each of its terms, the sum of the losses of a micro-batch and how many targets went into it. The step adds both
up over its micro-batches (and, some day, ranks) and divides once, so that 1 x 8, 8 x 1 and 4 x 2 micro-batches are the same step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = -100  # the label of a position that has no loss


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows of T tokens."""

    input_ids: Tensor  # (B, T)
    labels: Tensor  # (B, T), IGNORED where there is no loss
    document_ids: Tensor | None = None  # (B, T): tokens with equal numbers see each other; None: every row is one document

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        documents = None if self.document_ids is None else self.document_ids.to(device, non_blocking=True)
        return Batch(self.input_ids.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), documents)


class Objective(Protocol):
    """A way to train."""

    @property
    def terms(self) -> Mapping[str, float]:
        """The weight of each part of the loss."""

    def collate(self, rows: Any) -> Batch:
        """Rows of the data room to a batch on the CPU."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many targets each term has, without a forward."""

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term's losses, a scalar with a gradient."""

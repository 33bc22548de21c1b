"""A head that maps hidden states to logits by a matrix, for the tests of losses over a vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Matrix:
    """A matrix (V, D), and everything that a head may add: a bias, a cap on the logits, a scale of the hidden states."""

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def prepare(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits by the formula: (N, V)."""
        found = torch.nn.functional.linear(self.prepare(hidden), self.weight, self.bias)
        return found if self.softcap is None else self.softcap * torch.tanh(found / self.softcap)

    def to(self, dtype: torch.dtype) -> "Matrix":
        """Return the same numbers in another dtype, as new leaf tensors."""
        return Matrix(leaf(self.weight, dtype), None if self.bias is None else leaf(self.bias, dtype), self.softcap, self.scale)


def leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())

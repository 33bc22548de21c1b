"""LayerNorm (arXiv 1607.06450), RMSNorm (arXiv 1910.07467) and dropout (arXiv 1207.0580), which are applied around each sublayer."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.model.config import NormConfig

PIECE = 2**18  # elements that a chain of elementwise kernels processes at a time on a CPU: 1 MiB in float32, which fits the caches


def build_norm(dim: int, config: NormConfig) -> nn.Module:
    """Build a norm over the last dimension: (..., D) -> (..., D)."""
    match config.kind:
        case "layer":
            return nn.LayerNorm(dim, eps=config.eps, bias=config.bias)
        case "rms":
            return OffsetRMSNorm(dim, config.eps) if config.unit_offset else RMSNorm(dim, config.eps)


def build_dropout(probability: float) -> nn.Module:
    """Build dropout, or the identity for probability 0, for which nn.Dropout would still copy its input."""
    return nn.Dropout(probability) if probability else nn.Identity()


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), computed in float32, times the weight; the result has the type of x."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if x.device.type == "cpu" and torch.is_grad_enabled():
            result: Tensor = _RMSNormOnCpu.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return result
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class OffsetRMSNorm(nn.Module):
    """Gemma's RMSNorm: the stored weight is the factor minus one; the result is computed in float32, weight included, and then rounded."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)


class _RMSNormOnCpu(torch.autograd.Function):
    """RMSNorm with a backward pass in closed form. On a CPU, torch runs a chain of small kernels instead, which takes up to twice as long.
    In bf16, both passes process groups of rows that fit the processor's caches; in float32, all rows together, so that sums over rows have
    a fixed order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        normed, out, scales = torch.empty_like(x), torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        for rows, of_normed, of_out, scale in _pieces(x, normed, out, scales):
            values = rows.float()
            norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)  # (n, 1)
            scale.copy_(norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_())
            of_normed.copy_(values * scale)
            torch.mul(of_normed, weight, out=of_out)
        ctx.save_for_backward(normed, weight, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, scales = ctx.saved_tensors
        grad_x, grad_weight, wide = torch.empty_like(normed), torch.zeros(weight.shape), weight.float()
        for rows, grad_rows, scale, of_grad in _pieces(normed, grad.contiguous(), scales, grad_x):
            values, grads = rows.float(), grad_rows.float()
            grad_weight += (grads * values).sum(0)
            grads = grads * wide
            along = torch.linalg.vecdot(grads, values)[:, None] / normed.shape[-1]  # (n, 1): the gradient along x, subtracted below
            of_grad.copy_((grads - values * along).mul_(scale))
        return grad_x, grad_weight.to(weight.dtype), None


def _pieces(*wholes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield corresponding groups of rows from tensors with equally many rows, (..., D) -> (n, D) each."""
    rows = [whole.view(-1, whole.shape[-1]) for whole in wholes]
    count = len(rows[0]) if wholes[0].dtype == torch.float32 else PIECE // wholes[0].shape[-1]
    return zip(*(part.split(max(1, count)) for part in rows), strict=True)

"""LayerNorm (arXiv 1607.06450) and RMSNorm (arXiv 1910.07467)."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.model.config import NormConfig


def build_norm(dim: int, config: NormConfig) -> nn.Module:
    """Build a norm over the last dimension: (..., D) -> (..., D)."""
    match config.kind:
        case "layer":
            return nn.LayerNorm(dim, eps=config.eps)
        case "rms":
            return OffsetRMSNorm(dim, config.eps) if config.unit_offset else RMSNorm(dim, config.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), computed in float32, rounded to the type of x, then multiplied by the weight."""

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
    """Gemma's RMSNorm: the stored weight is the factor minus one, and everything is computed in float32 and rounded at the end."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)


class _RMSNormOnCpu(torch.autograd.Function):
    """RMSNorm with a backward pass in closed form. On a CPU, torch runs a chain of small kernels instead, which takes twice as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (..., 1)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = (x.float() * scale).to(x.dtype)
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, scale = ctx.saved_tensors
        normed_32, grad_32 = normed.float(), grad.float()
        grad_weight = (grad_32 * normed_32).flatten(0, -2).sum(0)  # (D,)
        grad_normed = grad_32 * weight.float()
        along = torch.linalg.vecdot(grad_normed, normed_32)[..., None] / normed.shape[-1]  # (..., 1): this part would only change |x|
        return (grad_normed - normed_32 * along).mul_(scale).to(normed.dtype), grad_weight.to(weight.dtype), None

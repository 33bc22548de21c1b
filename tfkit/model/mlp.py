"""The feed-forward sublayer: plain (arXiv 1706.03762) or gated (arXiv 2002.05202)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tfkit.model.config import ModelConfig
from tfkit.model.norm import PIECE, build_dropout


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the GELU in its tanh form (arXiv 1606.08415, section 2)."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = _GeluTanhOnCpu.apply(x)  # type: ignore[no-untyped-call]
        return result
    return F.gelu(x, approximate="tanh")


class _GeluTanhOnCpu(torch.autograd.Function):
    """x sigmoid(u), with u = 2 sqrt(2 / pi) (x + 0.044715 x^3), which equals the form with a tanh. torch's kernel takes 1.5 times as long,
    since it computes the tanh in both passes. x is processed in pieces that fit the processor's caches. The slope is saved for the backward
    pass, not x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        linear = 2 * math.sqrt(2 / math.pi)
        cubic = 0.044715 * linear
        x = x.contiguous()
        out, slopes = torch.empty_like(x), torch.empty_like(x)
        for part, of_out, of_slopes in zip(*(whole.view(-1).split(PIECE) for whole in (x, out, slopes)), strict=True):
            values = part.float()
            squares = values.square()
            factor = (squares * cubic).add_(linear)  # u / x
            weights = (factor * values).sigmoid_()
            of_out.copy_(values.mul_(weights))
            factor.add_(squares, alpha=2 * cubic)  # du / dx
            of_slopes.copy_(weights.addcmul_(torch.addcmul(values, values, weights, value=-1), factor))
        ctx.save_for_backward(slopes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slopes,) = ctx.saved_tensors
        return grad * slopes


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": gelu_tanh, "silu": F.silu}


class Mlp(nn.Module):
    """down(activation(up x)) or, if gated, down(activation(gate x) * up x)."""

    def __init__(self, config: ModelConfig, hidden_dim: int):
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp.activation]
        self.gate_proj = nn.Linear(config.dim, hidden_dim, bias=config.mlp.bias) if config.mlp.gated else None
        self.gate_up: nn.Module | None = None  # replaces gate_proj and up_proj if answering_linear.py has joined them
        self.up_proj = nn.Linear(config.dim, hidden_dim, bias=config.mlp.bias)
        self.dropout = build_dropout(config.dropout.hidden)
        self.down_proj = nn.Linear(hidden_dim, config.dim, bias=config.mlp.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self.gate_up is not None:
            gate, up = self.gate_up(x).chunk(2, dim=-1)
            hidden = self.activation(gate) * up
        elif self.gate_proj is None:
            hidden = self.activation(self.up_proj(x))  # (..., F)
        else:
            hidden = self.activation(self.gate_proj(x)) * self.up_proj(x)  # (..., F)
        return self.down_proj(self.dropout(hidden))

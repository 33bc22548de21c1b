"""The feed-forward sublayer: an MLP, plain (arXiv 1706.03762) or gated (arXiv 2002.05202); or a mixture of experts, each such an MLP
(Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, arXiv 2101.03961), and the losses of its router.
"""

import math
from collections.abc import Callable, Sequence
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


class Experts(nn.Module):
    """The sum of p_e MLP_e(x) over the `active` experts e with the largest p = softmax(router x); if `normalized`, these p_e sum to 1."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.mlp.experts is not None
        self.active, self.normalized = config.mlp.experts.active, config.mlp.experts.normalized
        self.router = nn.Linear(config.dim, config.mlp.experts.count, bias=False)
        self.experts = nn.ModuleList(Mlp(config, config.expert_dim) for _ in range(config.mlp.experts.count))

    def forward(self, x: Tensor, routed: list[Tensor]) -> Tensor:
        """(B, T, D) -> (B, T, D). The router's logits (B, T, N), for N experts, are appended to `routed`.

        Tokens are sorted by expert, and each expert computes all its tokens at once. The outputs of a token's experts are added in
        float32, in the order of the experts.
        """
        logits = self.router(x)  # (B, T, N)
        routed.append(logits)
        weights, chosen = logits.float().softmax(-1).topk(self.active, dim=-1)  # (B, T, K), K = active
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)  # (B T K,)
        tokens = order // self.active
        rows = x.flatten(0, 1)  # (B T, D)
        parts = rows.index_select(0, tokens).split(_tokens_by_expert(chosen, len(self.experts)))
        # In training, an expert without tokens is called, too: its gradients are zeros, not None, so that all ranks sum the same tensors.
        computed = [expert(part) for expert, part in zip(self.experts, parts, strict=True) if len(part) or torch.is_grad_enabled()]
        weighted = torch.cat(computed) * weights.flatten().index_select(0, order)[:, None]  # (B T K, D), float32
        return weighted.new_zeros(rows.shape).index_add(0, tokens, weighted).to(x.dtype).view_as(x)


def active_numel(model: nn.Module) -> int:
    """Return the number of parameters with which a model computes a token: all but those of the experts that are not chosen."""
    parts = [(part, len(part.experts) - part.active) for part in model.modules() if isinstance(part, Experts)]
    idle = sum(unused * sum(one.numel() for one in part.experts[0].parameters()) for part, unused in parts)
    return sum(parameter.numel() for parameter in model.parameters()) - idle


def _tokens_by_expert(chosen: Tensor, count: int) -> list[int]:
    """Return how many tokens each expert computes; PyTorch's fake tensors (`tfkit plan`) have no values, so equal numbers are assumed."""
    if hasattr(chosen, "fake_mode"):
        few, more = divmod(chosen.numel(), count)
        return [few + (expert < more) for expert in range(count)]
    return chosen.flatten().bincount(minlength=count).tolist()


def balance_loss(routed: Sequence[Tensor], active: int, real: Tensor | None) -> Tensor:
    """Return the sum, over rows, of a row's balancing loss times its number of real tokens.

    A row's loss is the mean over layers of N sum_e f_e P_e over the N experts e (arXiv 2101.03961, equations 4 to 6); f_e: the fraction of
    real tokens that choose e; P_e: their mean probability of e. If all f_e are equal, the loss is `active`. `routed`: the logits (B, T, N)
    of each layer; `real` (B, T): True = a real token; None: all are real.

    transformers' load_balancing_loss_func computes f and P over the whole micro-batch and all layers, so that its value depends on how a
    step is cut into micro-batches. For one row and one layer with experts, the two losses are equal. Computed by row, the loss balances the
    experts within each row (DeepSeek-V3, arXiv 2412.19437, section 2.1.2), whichever rows are in a micro-batch.
    """
    total = routed[0].new_zeros((), dtype=torch.float32)
    mask = torch.ones(routed[0].shape[:2], device=total.device) if real is None else real.float()
    tokens = mask.sum(1)  # (B,)
    for logits in routed:
        probabilities = logits.float().softmax(-1)  # (B, T, N)
        chosen = torch.zeros_like(probabilities).scatter(-1, probabilities.topk(active, dim=-1).indices, 1.0)
        used, probable = ((part * mask[..., None]).sum(1) for part in (chosen, probabilities))  # (B, N): sums over tokens
        total = total + ((used * probable).sum(1) / tokens.clamp(min=1)).sum() * logits.shape[-1]
    return total / len(routed)


def router_z_loss(routed: Sequence[Tensor], real: Tensor | None) -> Tensor:
    """Return the sum over real tokens, and the mean over layers, of the squared logsumexp of a router's logits. This loss keeps the logits
    small (ST-MoE, arXiv 2202.08906, equation 5). The arguments are those of `balance_loss`.
    """
    squares = torch.stack([logits.float().logsumexp(-1).square() for logits in routed]).mean(0)  # (B, T)
    return squares.sum() if real is None else (squares * real).sum()

"""A mixture of experts in place of the MLP (Shazeer et al. 2017, arXiv 1701.06538; Fedus et al. 2021, arXiv 2101.03961), and its losses."""

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from tfkit.model.config import ModelConfig
from tfkit.model.mlp import Mlp


class Experts(nn.Module):
    """The sum of p_e MLP_e(x) over the `active` largest p_e of p = softmax(router x); if `normalized`, divided by the sum of these p_e."""

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

    A row's loss is N sum_e f_e P_e (arXiv 2101.03961, equations 4 to 6), averaged over layers; N: number of experts; f_e: the fraction of
    the row's real tokens that choose expert e; P_e: the mean probability of e over these tokens. If all f_e are equal, the loss is
    `active`. `routed`: the logits (B, T, N) of each layer; `real` (B, T): True = a real token; None: all are real.

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
    """Return the mean over layers of the sum over real tokens of the squared logsumexp of a router's logits. This loss keeps the logits
    small (ST-MoE, arXiv 2202.08906, equation 5). The arguments are those of `balance_loss`.
    """
    squares = torch.stack([logits.float().logsumexp(-1).square() for logits in routed]).mean(0)  # (B, T)
    return squares.sum() if real is None else (squares * real).sum()

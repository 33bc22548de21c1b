"""Attention in bf16 training on a CPU, in blocks of queries: one batched product multiplies a block by all keys that it may see.

torch's fused kernel calls a library for every small tile of the scores, and reaches an eighth of the speed of one large product. As in the
fused kernel, attention weights are not saved: the backward pass recomputes those of each block (arXiv 2205.14135).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERY_BLOCK = 128  # queries in a block


@dataclass(frozen=True)
class ScoreRule:
    """How scores are computed: softcap(scale q k), plus the caller's bias, for each pair that the mask allows; -inf for other pairs."""

    mask: Tensor | None  # (1 or B, 1, T, S), True where a query sees a key; None: `causal` alone decides
    causal: bool  # query t sees no key after t; if there is a mask, it hides these keys itself
    scale: float
    softcap: float | None


def attend_query_blocks(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, rule: ScoreRule) -> Tensor:
    """Queries (B, H, T, E), keys and values (B, K, S, E), bias (1 or B, H, T, S) -> (B, H, T, E)."""
    out: Tensor = _QueryBlocks.apply(queries, keys, values, bias, rule)  # type: ignore[no-untyped-call]
    return out


class _QueryBlocks(torch.autograd.Function):
    """Attention and its gradients. Inside, with N = B K and G = H / K (the query heads of one key head), queries are (N, G, T, E), keys and
    values (N, S, E).
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, rule: ScoreRule) -> Tensor:
        scaled = torch.mul(queries, rule.scale, out=queries.new_empty(queries.shape))
        scaled, keys, values = (
            scaled.view(-1, scaled.shape[1] // keys.shape[1], *scaled.shape[2:]),
            keys.flatten(0, 1),
            values.flatten(0, 1),
        )
        out = torch.empty_like(queries)  # with the memory layout of the queries, in which the heads of a position are adjacent
        for begin, end, seen in _blocks(scaled, keys, rule):
            scores, _ = _scores(_rows(scaled, begin, end), keys[:, :seen], bias, rule, out.shape[:2], begin, end)
            out[:, :, begin:end] = torch.bmm(scores.softmax(-1), values[:, :seen]).view(out[:, :, begin:end].shape)
        ctx.rule = rule
        ctx.save_for_backward(scaled, keys, values, bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (scaled, keys, values, bias, out), rule = ctx.saved_tensors, ctx.rule
        grad_scaled, grad_bias = torch.empty_like(scaled), torch.zeros(bias.shape) if ctx.needs_input_grad[3] else None
        grad_keys, grad_values = (torch.zeros(keys.shape) for _ in range(2))  # float32: sums of blocks in bf16 would lose small addends
        # For each query, the mean of its attention weights' gradients, weighted by the attention weights.
        means = torch.linalg.vecdot(grad.float(), out.float()).to(grad.dtype).view(*scaled.shape[:3], 1)
        grad = grad.reshape(scaled.shape)
        for begin, end, seen in _blocks(scaled, keys, rule):
            rows, grad_rows = _rows(scaled, begin, end), _rows(grad, begin, end)
            scores, slopes = _scores(rows, keys[:, :seen], bias, rule, out.shape[:2], begin, end)
            weights = scores.softmax(-1)
            grad_values[:, :seen] += torch.bmm(weights.transpose(1, 2), grad_rows)
            errors = torch.bmm(grad_rows, values[:, :seen].transpose(1, 2)).sub_(_rows(means, begin, end)).mul_(weights)  # (N, G n, s)
            if grad_bias is not None:
                by_row = errors.view(*out.shape[:2], -1, seen)
                grad_bias[:, :, begin:end, :seen] = by_row if len(bias) > 1 else by_row.sum(0)  # torch sums bf16 in float32
            if slopes is not None:
                errors.mul_(slopes)
            grad_scaled[:, :, begin:end] = torch.bmm(errors, keys[:, :seen]).view(grad_scaled[:, :, begin:end].shape)
            grad_keys[:, :seen] += torch.bmm(errors.transpose(1, 2), rows)
        grads = (sums.to(keys.dtype).unflatten(0, (len(out), -1)) for sums in (grad_keys, grad_values))
        return grad_scaled.mul_(rule.scale).view(out.shape), *grads, None if grad_bias is None else grad_bias.to(bias.dtype), None


def _blocks(queries: Tensor, keys: Tensor, rule: ScoreRule) -> Iterator[tuple[int, int, int]]:
    """Yield, for each block, its first query, the first query after the block, and the number of keys that its queries may see."""
    for begin in range(0, queries.shape[2], QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, queries.shape[2])
        yield begin, end, end if rule.causal else keys.shape[1]


def _rows(part: Tensor, begin: int, end: int) -> Tensor:
    """Return the part of a tensor that belongs to the n queries from `begin` to `end`: (N, G, T, ...) -> (N, G n, ...)."""
    return part[:, :, begin:end].flatten(1, 2)


def _scores(
    rows: Tensor, keys: Tensor, bias: Tensor | None, rule: ScoreRule, heads: torch.Size, begin: int, end: int
) -> tuple[Tensor, Tensor | None]:
    """Return the scores of n queries with s keys and, if they are capped, the slope of the cap: (N, G n, E), (N, s, E) -> (N, G n, s)."""
    scores, slopes = torch.bmm(rows, keys.transpose(1, 2)), None
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_()
        slopes = 1 - scores.square()
        scores.mul_(rule.softcap)
    seen = keys.shape[1]
    by_head = scores.view(*heads, end - begin, seen)  # (B, H, n, s)
    if bias is not None:
        by_head += bias[..., begin:end, :seen]
    if rule.mask is not None:
        by_head += rule.mask[..., begin:end, :seen].to(scores.dtype).log_()  # adds 0 or -inf; masked_fill_ takes ten times as long
    elif rule.causal:
        by_head[..., begin:] += torch.full((end - begin, end - begin), float("-inf"), dtype=scores.dtype).triu_(1)
    return scores, slopes

"""The only attention there is: multi-head (arXiv 1706.03762), with grouped key and value heads (arXiv 2305.13245)."""

from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.cache import KeyValueCache
from tfkit.model.config import ModelConfig
from tfkit.model.position import Rotation, rotate


@dataclass(frozen=True)
class View:
    """What every layer of a stack shares in one forward: who sees whom, how queries and keys are turned, what was seen before."""

    mask: Tensor | None = None  # (1 or B, 1, T, S), True = visible; None: causal
    rotation: Rotation | None = None
    cache: KeyValueCache | None = None


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(E)) v, each query head with the key and value head of its group."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer  # its place in the cache
        self.head_dim = config.head_dim
        self.dropout = config.dropout.attention
        query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.dim, query_dim, bias=config.attention.qkv_bias)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=config.attention.qkv_bias)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=config.attention.qkv_bias)
        self.o_proj = nn.Linear(query_dim, config.dim, bias=config.attention.out_bias)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        queries = self._split_heads(self.q_proj(x))  # (B, H, T, E)
        keys = self._split_heads(self.k_proj(x))  # (B, K, T, E)
        values = self._split_heads(self.v_proj(x))  # (B, K, T, E)
        if view.rotation is not None:
            queries, keys = rotate(queries, view.rotation), rotate(keys, view.rotation)
        if view.cache is not None:
            keys, values = view.cache.append(self.layer, keys, values)  # (B, K, S, E)
        out = attend(queries, keys, values, view.mask, self.dropout if self.training else 0.0)  # (B, H, T, E)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H * E) -> (B, H, T, E)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Torch's fused kernel: (B, H, T, E) and twice (B, K, S, E) -> (B, H, T, E). Without a mask, causal over T = S, or T = 1 sees all."""
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and queries.shape[2] > 1,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )

"""Multi-head self- and cross-attention (arXiv 1706.03762), with grouped key and value heads (arXiv 2305.13245)."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.block_attention import BLOCK, DTYPES, attend_blocks, block_mask, dense_mask
from tfkit.model.config import ModelConfig
from tfkit.model.key_value_cache import KeyValueCache, Pair, attend_after_prompts
from tfkit.model.masks import Mask, encoder_output_mask
from tfkit.model.norm import build_norm
from tfkit.model.query_blocks import ScoreRule, attend_query_blocks
from tfkit.model.relative_position import Rotation, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# On a CPU, torch's bf16 kernel has a slow backward pass. With at most this many keys, torch's float32 kernel is used, with more keys
# query_blocks.py in bf16. The former is more exact, and takes 0.9 times as long as the latter with 32 keys, 1.3 times with 64 or 128.
_MAX_FLOAT32_KEYS = 64


class AttentionContext:
    """The inputs that all blocks of a stack share in one forward pass, apart from the hidden states.

    It must not be a dataclass: FSDP wraps each tensor that it finds inside a dataclass or container among a block's inputs. For the
    bias and the encoder output, which all blocks share, this would change the order in which the blocks' gradients are summed.
    """

    def __init__(
        self,
        masks: Iterable[Mask],
        rotations: Mapping[str, Rotation],
        bias: Tensor | tuple[Tensor, Tensor] | None,
        cache: KeyValueCache | None,
        encoder_output: Tensor | None,
        encoder_padding: Tensor | None,
        use_blocks: Callable[[Mask], bool],
    ):
        """`masks`: one for each distinct window of the layers. `rotations`: cosines and sines by the names of `config.rotation`. `bias`:
        added to the scores, (1, H, T, S); or the output of DistanceVectors, from which each layer computes its bias. `encoder_output`
        (B, S, D); `encoder_padding` (B, S): True = real token; None: all are real. `use_blocks`: returns whether block_attention.py
        computes the attention under a mask.
        """
        self.masks = {mask.window: (block_mask(mask), False) if use_blocks(mask) else kernel_mask(mask) for mask in masks}
        self.rotations, self.bias, self.cache = rotations, bias, cache
        self.encoder_output, self.encoder_mask = encoder_output, encoder_output_mask(encoder_padding)


def kernel_mask(mask: Mask) -> tuple[Tensor | None, bool]:
    """Return the arguments `mask` and `causal` with which `attend` applies a mask."""
    return (mask.dense(), mask.causal and not mask.positions.offset) if mask.pattern == "other" else (None, mask.pattern == "causal")


def supports_blocks(mask: Mask, device: str, dtype: torch.dtype, dropout: float, *, plain_scores: bool) -> bool:
    """Whether block_attention.py computes the attention under a mask. `plain_scores`: the scores have no bias and no soft cap.

    Rows that are padded, that continue a cache, or whose length is not a multiple of the block size are left to other kernels: they are
    short, or their lengths vary, and each new length would compile another kernel.
    """
    positions = mask.positions
    is_whole = positions.length % BLOCK == 0 and not positions.offset and positions.padding_mask is None
    return device == "cuda" and dtype in DTYPES and not dropout and plain_scores and mask.pattern == "other" and is_whole


class Operands(NamedTuple):
    """Queries, keys and values of an attention layer, its mask and bias. `prompt`: more keys and values, each for several rows."""

    queries: Tensor  # (B, H, T, E)
    keys: Tensor  # (B, K, S, E)
    values: Tensor  # (B, K, S, E)
    mask: "Tensor | BlockMask | None"
    causal: bool
    bias: Tensor | None
    prompt: Pair | None


class Attention(nn.Module):
    """softmax(cap(scale q k^T) + bias) v, with an optional soft cap; each query head uses the key and value head of its group.

    If `cross`, keys and values come from the encoder's output, without positions or a causal mask; with a cache, they are computed once.
    """

    def __init__(self, config: ModelConfig, layer: int, cross: bool = False):
        super().__init__()
        self.layer, self.cross = layer, cross  # `layer`: the index of the block in its stack
        self.head_dim, self.window = config.head_dim, None if cross else config.window(layer)
        self.rotation = None if cross else config.rotation(layer)
        self.scale, self.softcap = config.attention.scale, config.attention.softcap
        if self.scale is None and config.position.kind == "disentangled":
            self.scale = (3 * config.head_dim) ** -0.5  # a score is a sum of three products
        self.dropout = config.dropout.attention
        query_dim, kv_dim = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.widths = [query_dim, kv_dim, kv_dim]
        self.qkv: nn.Module | None = None  # replaces the three projections below if answering_linear.py has joined them
        self.q_proj = nn.Linear(config.dim, query_dim, bias=config.attention.qkv_bias)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=config.attention.qkv_bias)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=config.attention.qkv_bias)
        self.norms_heads = config.attention.qk_norm == "head"
        norm_widths = (config.head_dim, config.head_dim) if self.norms_heads else (query_dim, kv_dim)
        self.q_norm, self.k_norm = (build_norm(width, config.norm) if config.attention.qk_norm else None for width in norm_widths)
        self.o_proj = nn.Linear(query_dim, config.dim, bias=config.attention.out_bias)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        queries, keys, values, mask, causal, bias, prompt = self._operands(x, context)
        dropout = self.dropout if self.training else 0.0
        queries = queries.to(keys.dtype)  # the keys of a cache may have another type than the weights
        if not (mask is None or isinstance(mask, Tensor)):
            heads = attend_blocks(queries, keys, values, mask, self.scale)
        elif prompt is None:
            heads = attend(queries, keys, values, mask, dropout, bias=bias, causal=causal, scale=self.scale, softcap=self.softcap)
        else:
            heads = attend_after_prompts(queries, prompt, (keys, values), mask, bias, self.scale, self.softcap)
        return self.o_proj(heads.to(x.dtype).transpose(1, 2).flatten(2))  # (B, H, T, E) -> (B, T, H * E) -> (B, T, D)

    def weights(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        """Return the weight of each key for each query, and whether the query sees the key: both (B, H, T, S). `context` has no cache.

        The weights are the result of `attend` if the value of each key s is the unit vector s.
        """
        queries, keys, _, mask, causal, bias, prompt = self._operands(x, context)
        assert prompt is None
        if not (mask is None or isinstance(mask, Tensor)):
            mask = dense_mask(mask)
        units = torch.eye(keys.shape[2], dtype=keys.dtype, device=keys.device).expand(*keys.shape[:2], -1, -1)  # (B, K, S, S)
        weights = attend(queries, keys, units, mask, 0.0, bias=bias, causal=causal, scale=self.scale, softcap=self.softcap)
        visible = _visible(mask, causal, queries, keys)
        return weights, torch.ones_like(weights, dtype=torch.bool) if visible is None else visible.expand_as(weights)

    def _operands(self, x: Tensor, context: AttentionContext) -> Operands:
        if self.cross:
            queries = self._split_heads(self.q_proj(x), self.q_norm)  # (B, H, T, E)
            keys, values = self._cross_keys_values(context)  # (B, K, S, E)
            prompt = (keys, values) if len(keys) < len(queries) else None  # fewer keys: several rows share an encoder output
            if prompt is not None:
                keys = values = keys.new_empty(len(queries), keys.shape[1], 0, self.head_dim)
            return Operands(queries, keys, values, context.encoder_mask, False, None, prompt)
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x)) if self.qkv is None else self.qkv(x).split(self.widths, dim=-1)
        norms = self.q_norm, self.k_norm, None
        queries, keys, values = map(self._split_heads, projected, norms)  # (B, H, T, E), (B, K, T, E) twice
        if self.rotation is not None:
            rotation = context.rotations[self.rotation]
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if context.cache is not None:
            keys, values = context.cache.append(self.layer, keys, values)  # (B, K, S, E)
        prompt = None if context.cache is None else context.cache.prompts.get(self.layer)
        mask, causal = context.masks[self.window]
        bias = self._scores_of_distances(queries, keys, *context.bias) if isinstance(context.bias, tuple) else context.bias
        return Operands(queries, keys, values, mask, causal, bias, prompt)

    def _scores_of_distances(self, queries: Tensor, keys: Tensor, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return what distances add to scores: scale (query times distance vector + key times distance vector) (arXiv 2006.03654, eq. 4).

        Queries and keys (B, H, T, E) -> (B, H, T, T). `vectors` (2 R, D): one for each bucket of distances, R of each sign,
        projected like the hidden states; `numbers` (T, T): for each query and key, the index of the vector of their distance.
        """
        table = vectors[None]
        both = (self.q_proj(table), self.k_proj(table)) if self.qkv is None else self.qkv(table).split(self.widths, dim=-1)[:2]
        of_queries, of_keys = map(self._split_heads, both, (self.q_norm, self.k_norm))  # (1, H, 2 R, E)
        to_distance, from_distance = queries @ of_keys.transpose(-1, -2), keys @ of_queries.transpose(-1, -2)  # (B, H, T, 2 R)
        rows, columns = numbers.expand(*queries.shape[:2], -1, -1), numbers.T.expand(*queries.shape[:2], -1, -1)
        assert self.scale is not None
        return self.scale * (to_distance.gather(-1, rows) + from_distance.gather(-1, columns).transpose(-1, -2))

    def _cross_keys_values(self, context: AttentionContext) -> tuple[Tensor, Tensor]:
        if context.cache is not None and (cached := context.cache.cross.get(self.layer)) is not None:
            return cached
        assert context.encoder_output is not None
        projected = self.k_proj(context.encoder_output), self.v_proj(context.encoder_output)
        keys, values = map(self._split_heads, projected, (self.k_norm, None))
        return (keys, values) if context.cache is None else context.cache.keep_cross(self.layer, keys, values)

    def _split_heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is not None and not self.norms_heads:
            x = norm(x)
        heads = x.unflatten(-1, (-1, self.head_dim))  # (B, T, H * E) -> (B, T, H, E)
        return (norm(heads) if norm is not None and self.norms_heads else heads).transpose(1, 2)  # (B, H, T, E)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    dropout: float,
    *,
    bias: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attend: queries (B, H, T, E), keys and values (B, K, S, E) -> (B, H, T, E). In bf16 training on a CPU without dropout, with more
    than _MAX_FLOAT32_KEYS keys and not compiled, query_blocks.py does this; else `_attend_capped` if there is a cap, or torch's kernel.

    `mask`: True where a query sees a key; None: every query sees every key or, if `causal`, query t sees the keys 0 to t. With a mask,
    `causal` only states that the mask itself hides later keys. `dropout`: a probability. `scale` None: 1 / sqrt(E).
    """
    trains_on_cpu = queries.dtype == torch.bfloat16 and queries.device.type == "cpu" and torch.is_grad_enabled() and not dropout
    has_few_keys = keys.shape[2] <= _MAX_FLOAT32_KEYS
    if trains_on_cpu and not has_few_keys and not torch.compiler.is_compiling():
        mask = None if mask is None else mask.expand(-1, -1, queries.shape[2], -1)
        rule = ScoreRule(mask, causal, queries.shape[-1] ** -0.5 if scale is None else scale, softcap)
        return attend_query_blocks(queries, keys, values, None if bias is None else bias.to(queries.dtype), rule)
    if softcap is not None:
        return _attend_capped(queries, keys, values, _visible(mask, causal, queries, keys), dropout, scale, softcap)
    dtype = queries.dtype
    if trains_on_cpu and has_few_keys:
        queries, keys, values = queries.float(), keys.float(), values.float()
    if bias is not None:
        visible = _visible(mask, causal, queries, keys)
        mask = bias.to(queries.dtype) if visible is None else torch.where(visible, bias.to(queries.dtype), float("-inf"))  # (., H, T, S)
    if mask is not None and queries.device.type != "cpu":  # CUDA's only kernel for masks and grouped heads stores all scores
        keys, values = _repeat_kv(queries, keys, values)
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None and causal,
        scale=scale,
        enable_gqa=queries.shape[1] != keys.shape[1],
    ).to(dtype)


def _visible(mask: Tensor | None, causal: bool, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Return the mask; without one, a dense causal mask if `causal`, else None: every query sees every key."""
    if mask is None and causal:
        return torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device).tril()  # (T, S)
    return mask


def _repeat_kv(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat keys and values for each query head of their group: (B, K, S, E) -> (B, H, S, E)."""
    groups = queries.shape[1] // keys.shape[1]
    return (keys, values) if groups == 1 else (keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1))


def _attend_capped(
    queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, dropout: float, scale: float | None, cap: float
) -> Tensor:
    """Attend with capped scores: scale, cap, mask, softmax in float32 and dropout, in this order (Gemma 2, arXiv 2408.00118, section 2)."""
    keys, values = _repeat_kv(queries, keys, values)  # (B, H, S, E)
    scores = queries @ keys.transpose(-1, -2) * (queries.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, T, S)
    scores = cap * torch.tanh(scores / cap)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    return F.dropout(weights, dropout) @ values  # (B, H, T, E)

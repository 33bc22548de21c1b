"""Attention over packed documents and windows on a GPU, by PyTorch's flex_attention (arXiv 2412.05496), whose mask is a function of the
positions of a query and a key, and which skips every block of 128 queries and 128 keys in which no query sees a key. PyTorch's
FlashAttention kernel supports no mask but the causal one.

flex_attention is compiled at its first use. It supports no dropout and, as used here, neither a bias nor a soft cap of the scores.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tfkit.model.masks import Mask

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # number of queries, and of keys, in a block
DTYPES = (torch.bfloat16, torch.float16)


def block_mask(mask: Mask) -> "BlockMask":
    """Return the mask in flex_attention's form: which blocks to skip, which are fully visible, and a function for pairs in the others."""
    from torch.nn.attention.flex_attention import create_block_mask

    positions, causal, window = mask.positions, mask.causal, mask.window
    documents, length, device = positions.document_ids, positions.length, positions.device

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = key <= query if causal else key == key  # key == key: a tensor that is true for every pair
        if window is not None:
            visible = visible & (key > query - window) & (key < query + window)
        return visible if documents is None else visible & (documents[row, query] == documents[row, key])

    create: Any = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask  # uncompiled, it would allocate a dense mask
    blocks: BlockMask = create(sees, None if documents is None else len(documents), None, length, length, device=device)
    return blocks


def attend_blocks(queries: Tensor, keys: Tensor, values: Tensor, mask: "BlockMask", scale: float | None) -> Tensor:
    """Queries (B, H, T, E), keys and values (B, K, T, E) -> (B, H, T, E). `scale` None: 1 / sqrt(E)."""
    from torch.nn.attention.flex_attention import flex_attention

    out: Tensor = _compiled(flex_attention)(
        queries, keys, values, block_mask=mask, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return out


def dense_mask(mask: "BlockMask") -> Tensor:
    """Return the mask as a dense one: (B, 1, T, T), True where a query sees a key."""
    from torch.nn.attention.flex_attention import create_mask

    rows, _, queries, keys = mask.shape
    return create_mask(mask.mask_mod, rows, 1, queries, keys, device=str(mask.kv_num_blocks.device))


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)

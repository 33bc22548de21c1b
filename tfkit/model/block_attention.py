"""Attention of packed documents and of windows on a GPU, by PyTorch's flex_attention (arXiv 2412.05496): it is given a mask as a rule, and
leaves out every block of 128 x 128 pairs of which none is seen. The other fast kernels have no such masks, and a dense one keeps a GPU
from all of them.

The compiler makes the kernel at its first use. It has neither dropout nor, as it is used here, biases or caps of scores.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tfkit.model.masks import Mask

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_BLOCK = 128
_TYPES = (torch.bfloat16, torch.float16)


def takes_blocks(mask: Mask, device: str, dtype: torch.dtype, dropout: float, *, plain_scores: bool) -> bool:
    """Whether attention under a mask is computed here. `plain_scores`: they have no bias and no cap.

    Rows that are not of whole blocks, padded ones and those after a cache are short or of ever other lengths, for each of which a kernel
    would be compiled.
    """
    rows = mask.positions
    is_whole = rows.length % _BLOCK == 0 and not rows.offset and rows.padding_mask is None
    return device == "cuda" and dtype in _TYPES and not dropout and plain_scores and mask.pattern == "other" and is_whole


def block_mask(mask: Mask) -> "BlockMask":
    """Return the mask as flex_attention takes it: which blocks are left out, which are seen as a whole, and the rule for the others."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, causal, window = mask.positions, mask.causal, mask.window
    documents = rows.document_ids

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query if causal else key == key  # true, in the form of a tensor
        if window is not None:
            seen = seen & (key > query - window) & (key < query + window)
        return seen if documents is None else seen & (documents[row, query] == documents[row, key])

    create: Any = _compiled(create_block_mask) if rows.device.type == "cuda" else create_block_mask  # uncompiled it holds a dense mask
    made: BlockMask = create(sees, None if documents is None else len(documents), None, rows.length, rows.length, device=rows.device)
    return made


def attend_blocks(queries: Tensor, keys: Tensor, values: Tensor, mask: "BlockMask", scale: float | None) -> Tensor:
    """(B, H, T, E) and twice (B, K, T, E) -> (B, H, T, E)."""
    from torch.nn.attention.flex_attention import flex_attention

    out: Tensor = _compiled(flex_attention)(
        queries, keys, values, block_mask=mask, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return out


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(function)

r"""Who sees whom. A mask is built once a forward for each distinct reach and handed to every layer that has it; None: no mask is needed.

causal        window of 3   documents "ab|cde" packed       left padding "..abc"
1 . . . .     1 . . . .     1 . . . .                       1 . . . .     (a padding position sees only itself,
1 1 . . .     1 1 . . .     1 1 . . .                       . 1 . . .      so that no row of the softmax is empty)
1 1 1 . .     1 1 1 . .     . . 1 . .                       . . 1 . .
1 1 1 1 .     . 1 1 1 .     . . 1 1 .                       . . 1 1 .
1 1 1 1 1     . . 1 1 1     . . 1 1 1                       . . 1 1 1
"""

import torch
from torch import Tensor

from tfkit.model.position import Where


def attention_mask(where: Where, causal: bool, window: int | None = None) -> Tensor | None:
    """Boolean (1 or B, 1, T, S), True where query t may see key s; S counts the keys that a layer of this window has at hand.

    None when the kernel needs no mask: everything, causal from the first position on, or one new token that sees everything.
    """
    documents, padding, offset = where.document_ids, where.padding_mask, where.offset
    if not causal and padding is None and documents is None:
        return None
    begin = where.first_key(window)  # the position of key 0
    narrow = window is not None and offset + where.length - begin > window
    if causal and not narrow and padding is None and documents is None and (offset == 0 or where.length == 1):
        return None
    queries = torch.arange(offset, offset + where.length, device=where.device)[:, None]  # (T, 1)
    keys = torch.arange(begin, offset + where.length, device=where.device)[None, :]  # (1, S)
    mask = (keys <= queries) if causal else torch.ones_like(keys <= queries)
    if narrow:
        assert window is not None
        mask = mask & (keys > queries - window)
    mask = mask[None, None]  # (1, 1, T, S)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    if padding is not None:
        mask = (mask & padding[:, None, None, begin:].bool()) | (keys == queries)
    return mask


def memory_mask(padding: Tensor | None) -> Tensor | None:
    """Which positions (B, S) of the encoder's output a decoder may see: (B, 1, 1, S), True for real tokens."""
    return None if padding is None else padding[:, None, None, :].bool()

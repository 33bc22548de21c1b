r"""Who sees whom. A mask is built once a forward and handed to every layer; None stands for plain causal attention.

causal        documents "ab|cde" packed       left padding "..abc"
1 . . . .     1 . . . .                       1 . . . .     (a padding position sees only itself,
1 1 . . .     1 1 . . .                       . 1 . . .      so that no row of the softmax is empty)
1 1 1 . .     . . 1 . .                       . . 1 . .
1 1 1 1 .     . . 1 1 .                       . . 1 1 .
1 1 1 1 1     . . 1 1 1                       . . 1 1 1
"""

import torch
from torch import Tensor

from tfkit.model.position import Where


def causal_mask(where: Where) -> Tensor | None:
    """Boolean (1 or B, 1, T, S), True where query t may see key s.

    None when the attention kernel needs no mask: causal from the first position on, or one new token that sees everything.
    """
    documents, padding, offset = where.document_ids, where.padding_mask, where.offset
    if padding is None and documents is None and (offset == 0 or where.length == 1):
        return None
    queries = torch.arange(offset, offset + where.length, device=where.device)[:, None]  # (T, 1)
    keys = torch.arange(offset + where.length, device=where.device)[None, :]  # (1, S)
    mask = (keys <= queries)[None, None]  # (1, 1, T, S)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    if padding is not None:
        mask = (mask & padding[:, None, None, :].bool()) | (keys == queries)
    return mask

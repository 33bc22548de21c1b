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


def causal_mask(
    length: int, device: torch.device, *, offset: int, padding_mask: Tensor | None, document_ids: Tensor | None
) -> Tensor | None:
    """Boolean (1 or B, 1, T, S), True where query t may see key s; S = offset + T.

    None when the attention kernel needs no mask: causal from the first position on, or one new token that sees everything.
    """
    if padding_mask is None and document_ids is None and (offset == 0 or length == 1):
        return None
    queries = torch.arange(offset, offset + length, device=device)[:, None]  # (T, 1)
    keys = torch.arange(offset + length, device=device)[None, :]  # (1, S)
    mask = (keys <= queries)[None, None]  # (1, 1, T, S)
    if document_ids is not None:
        mask = mask & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    if padding_mask is not None:
        mask = (mask & padding_mask[:, None, None, :].bool()) | (keys == queries)
    return mask

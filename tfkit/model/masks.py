r"""Which keys a query may see, as a description: attention.py makes of it what its kernel needs.

causal        window of 3   documents "ab|cde" packed       left padding "..abc"
1 . . . .     1 . . . .     1 . . . .                       1 . . . .     (a padding position sees only itself,
1 1 . . .     1 1 . . .     1 1 . . .                       . 1 . . .      so that no row of the softmax is empty)
1 1 1 . .     1 1 1 . .     . . 1 . .                       . . 1 . .
1 1 1 1 .     . 1 1 1 .     . . 1 1 .                       . . 1 1 .
1 1 1 1 1     . . 1 1 1     . . 1 1 1                       . . 1 1 1
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tfkit.model.position import Positions


@dataclass(frozen=True)
class Mask:
    """The keys that each new position sees: of its own document and no padding; if `causal`, none after it; with a `window` none that are
    `window` or more positions away.
    """

    positions: Positions
    causal: bool
    window: int | None = None

    @property
    def pattern(self) -> Literal["full", "causal", "other"]:
        """`full`: every query sees every key. `causal`: query t sees the keys 0 to t, and there are as many keys as queries."""
        new = self.positions
        if new.padding_mask is not None or new.document_ids is not None:
            return "other"
        if self._cuts or (self.causal and new.offset and new.length > 1):
            return "other"
        return "causal" if self.causal and new.length > 1 else "full"

    def dense(self) -> Tensor:
        """Boolean (1 or B, 1, T, S), True where query t may see key s; S counts the keys that a layer of this window has at hand."""
        new = self.positions
        begin, end = new.first_key(self.window), new.offset + new.length
        queries = torch.arange(new.offset, end, device=new.device)[:, None]  # (T, 1)
        keys = torch.arange(begin, end, device=new.device)[None, :]  # (1, S)
        mask = (keys <= queries) if self.causal else torch.ones_like(keys <= queries)
        if self._cuts:
            assert self.window is not None
            mask = mask & (keys > queries - self.window) & (keys < queries + self.window)
        mask = mask[None, None]  # (1, 1, T, S)
        if new.document_ids is not None:
            mask = mask & (new.document_ids[:, None, :, None] == new.document_ids[:, None, None, :])
        if new.padding_mask is not None:
            mask = (mask & new.padding_mask[:, None, None, begin:].bool()) | (keys == queries)
        return mask

    @property
    def _cuts(self) -> bool:
        """Whether there are more keys than the window has."""
        new = self.positions
        return self.window is not None and new.offset + new.length - new.first_key(self.window) > self.window


def encoder_output_mask(padding: Tensor | None) -> Tensor | None:
    """The mask of an encoder's output by its padding (B, S): (B, 1, 1, S), True for real tokens, which a decoder may see."""
    return None if padding is None else padding[:, None, None, :].bool()

r"""Attention masks as descriptions of the keys that a query sees; attention.py converts them to the form that its kernel needs.

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
    """The keys that each new position sees: those of its own document, without padding; if `causal`, none after it; with a `window`, none
    that are `window` or more positions away.
    """

    positions: Positions
    causal: bool
    window: int | None = None

    @property
    def pattern(self) -> Literal["full", "causal", "other"]:
        """`full`: every query sees every key. `causal`: query t sees the keys 0 to t, and there are as many keys as queries."""
        positions = self.positions
        if positions.padding_mask is not None or positions.document_ids is not None:
            return "other"
        if self._exceeds_window or (self.causal and positions.offset and positions.length > 1):
            return "other"
        return "causal" if self.causal and positions.length > 1 else "full"

    def dense(self) -> Tensor:
        """Return the Boolean mask (1 or B, 1, T, S), True where query t sees key s; S counts the keys that a layer of this window holds."""
        positions = self.positions
        begin, end = positions.first_key(self.window), positions.offset + positions.length
        queries = torch.arange(positions.offset, end, device=positions.device)[:, None]  # (T, 1)
        keys = torch.arange(begin, end, device=positions.device)[None, :]  # (1, S)
        mask = (keys <= queries) if self.causal else torch.ones_like(keys <= queries)  # (T, S)
        if self._exceeds_window:
            assert self.window is not None
            mask = mask & (keys > queries - self.window) & (keys < queries + self.window)
        mask = mask[None, None]  # (1, 1, T, S)
        if (documents := positions.document_ids) is not None:
            mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])  # (B, 1, T, S)
        if positions.padding_mask is not None:
            mask = (mask & positions.padding_mask[:, None, None, begin:].bool()) | (keys == queries)  # (B, 1, T, S)
        return mask

    @property
    def _exceeds_window(self) -> bool:
        """Whether the layer holds more keys than the window covers."""
        positions = self.positions
        return self.window is not None and positions.offset + positions.length - positions.first_key(self.window) > self.window


def encoder_output_mask(padding: Tensor | None) -> Tensor | None:
    """Return the mask of cross-attention from the encoder's padding mask: (B, S) -> (B, 1, 1, S), True = real token; None: all are real."""
    return None if padding is None else padding[:, None, None, :].bool()

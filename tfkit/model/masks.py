r"""The positions of a forward pass, and attention masks: descriptions of which keys each query sees. attention.py converts a mask to the
form that the kernel needs.

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


@dataclass(frozen=True)
class Positions:
    """The new positions of a forward pass and those before them in the cache: how many, which are padding, and which share a document."""

    length: int  # T, the number of new tokens
    offset: int  # S - T, the number of tokens before them, in the cache
    device: torch.device
    padding_mask: Tensor | None  # (B, S), True = real token
    document_ids: Tensor | None  # (B, T); None: each row is one document

    def first_key(self, window: int | None) -> int:
        """Return the position of the first key of a layer with this window: its cache keeps the last window - 1 positions (None: all)."""
        return 0 if window is None else max(0, self.offset - (window - 1))


def count_positions(positions: Positions) -> Tensor:
    """Return the position id of each new token: (T,) if all rows have the same ids, else (B, T).

    Each document of a packed row counts from 0. Padding is not counted, so that left padding does not change the ids of a prompt.
    """
    documents, padding = positions.document_ids, positions.padding_mask
    if documents is not None:
        index = torch.arange(positions.length, device=positions.device)
        begins = torch.zeros_like(documents)
        begins[:, 1:] = torch.where(documents[:, 1:] != documents[:, :-1], index[1:], 0)  # (B, T): index at documents' starts, else 0
        return index - begins.cummax(dim=1).values  # (B, T)
    if padding is not None:
        return (padding.long().cumsum(dim=1) - 1).clamp(min=0)[:, -positions.length :]  # (B, T)
    return torch.arange(positions.offset, positions.offset + positions.length, device=positions.device)  # (T,)


@dataclass(frozen=True)
class Mask:
    """The keys that each new position sees: those of its own document that are not padding, and itself; if `causal`, none after it; with a
    `window`, none that are `window` or more positions away.
    """

    positions: Positions
    causal: bool
    window: int | None = None

    @property
    def pattern(self) -> Literal["full", "causal", "other"]:
        """`full`: every query sees every key. `causal`: query t sees the keys 0 to t of T keys. `other`: any other mask."""
        positions = self.positions
        if positions.padding_mask is not None or positions.document_ids is not None:
            return "other"
        if self._exceeds_window or (self.causal and positions.offset and positions.length > 1):
            return "other"
        return "causal" if self.causal and positions.length > 1 else "full"

    def dense(self) -> Tensor:
        """Return the Boolean mask (1 or B, 1, T, S), True where query t sees key s. S: the number of keys in a layer with this window."""
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
        """Whether a layer with this window has more keys than the window covers."""
        positions = self.positions
        return self.window is not None and positions.offset + positions.length - positions.first_key(self.window) > self.window


def encoder_output_mask(padding: Tensor | None) -> Tensor | None:
    """Return the mask of cross-attention from the encoder's padding mask: (B, S) -> (B, 1, 1, S), True = real token; None: all are real."""
    return None if padding is None else padding[:, None, None, :].bool()

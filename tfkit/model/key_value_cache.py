"""A cache of the keys and values of earlier positions, so that generating a token computes one position instead of all."""

import torch
from torch import Tensor

from tfkit.model.config import ModelConfig

Pair = tuple[Tensor, Tensor]


class KeyValueCache:
    """Space for `length` positions of `batch_size` rows: 2 * layers * K * E numbers a position. The model's forward fills it.

    A layer with a window keeps only the positions that its next token can still see, however long the text grows. Keys and values of an
    encoder's output are computed in the first forward and kept.
    """

    def __init__(self, config: ModelConfig, batch_size: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
        self.length = 0  # positions filled so far
        self._old = [None if (window := config.window(layer)) is None else window - 1 for layer in range(config.decoder_layers)]
        sizes = [length if old is None else min(old, length) for old in self._old]
        shapes = [(batch_size, config.num_kv_heads, size, config.head_dim) for size in sizes]
        self._pairs: list[Pair] = [(torch.zeros(s, dtype=dtype, device=device), torch.zeros(s, dtype=dtype, device=device)) for s in shapes]
        self._cross: dict[int, Pair] = {}

    @property
    def size(self) -> int:
        """The number of elements allocated."""
        return sum(tensor.numel() for pair in (*self._pairs, *self._cross.values()) for tensor in pair)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> Pair:
        """Store one layer's new keys and values (B, K, T, E); return those that the new tokens may see (B, K, S, E)."""
        kept, old = self._pairs[layer], self._old[layer]
        if old is None:
            end = self.length + keys.shape[2]
            for store, new in zip(kept, (keys, values), strict=True):
                store[:, :, self.length : end] = new
            return kept[0][:, :, :end], kept[1][:, :, :end]
        seen = min(self.length, old)
        joined = torch.cat((kept[0][:, :, :seen], keys), dim=2), torch.cat((kept[1][:, :, :seen], values), dim=2)
        for store, new in zip(kept, joined, strict=True):
            last = new[:, :, max(0, new.shape[2] - old) :]
            store[:, :, : last.shape[2]] = last
        return joined

    def keep_cross(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store one layer's keys and values of the encoder's output (B, K, M, E)."""
        self._cross[layer] = keys, values

    def cross_keys_values(self, layer: int) -> Pair | None:
        """The keys and values that `keep_cross` stored for a layer, or None."""
        return self._cross.get(layer)

    @property
    def has_cross_keys_values(self) -> bool:
        """Whether the keys and values of an encoder's output are stored, so that the output itself is no longer needed."""
        return bool(self._cross)

    def advance(self, positions: int) -> None:
        """Move on by the positions that every layer has now stored."""
        self.length += positions

    def select_rows(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order; a row may occur twice."""
        self._pairs = [(keys[rows], values[rows]) for keys, values in self._pairs]
        self._cross = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self._cross.items()}

    def reorder_rows(self, rows: Tensor) -> None:
        """Replace the rows by as many of them, in this order; each must share its encoder's output with the row whose place it takes."""
        for pair, old in zip(self._pairs, self._old, strict=True):
            filled = self.length if old is None else min(self.length, old)
            for store in pair:
                store[:, :, :filled] = store[:, :, :filled][rows]

    def drop_columns(self, count: int) -> None:
        """Remove the first `count` positions, which are padding in every row; later positions move to the left."""
        length = self.length - count
        for layer, (pair, old) in enumerate(zip(self._pairs, self._old, strict=True)):
            if old is None:
                self._pairs[layer] = pair[0][:, :, count:], pair[1][:, :, count:]
                continue
            seen, left = min(self.length, old), min(length, old)
            for store in pair:
                store[:, :, :left] = store[:, :, seen - left : seen].clone()
        self.length = length

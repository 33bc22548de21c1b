"""The keys and values of positions already seen, so that generating a token costs one position instead of all."""

import torch
from torch import Tensor

from tfkit.model.config import ModelConfig


class KeyValueCache:
    """Room for `length` positions of `batch_size` rows: 2 * layers * K * E numbers a position. The forward that gets it fills it."""

    def __init__(self, config: ModelConfig, batch_size: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
        shape = (config.decoder_layers, batch_size, config.num_kv_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0  # positions filled so far

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values (B, K, T, E); return all of them so far (B, K, S, E)."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has now stored."""
        self.length += positions

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

"""A cache of the keys and values of earlier positions, so that generating a token computes one position instead of all; and the attention
to prompts that several rows of the cache share.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.model.config import ModelConfig

Pair = tuple[Tensor, Tensor]  # keys and values


class KeyValueCache:
    """Space for `length` positions of `batch_size` rows: at most 2 * layers * K * E numbers per row and position. Forward passes fill it.

    A layer with a window keeps only the positions that the next token can still see, however long the text grows. Keys and values of an
    encoder's output are computed in the first forward pass and kept.

    If `copies` > 1, each group of `copies` successive rows continues the same prompt. For the whole group, there is one copy of the keys
    and values of this prompt's encoder output and, in layers without a window, of the prompt's first `shared` positions.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        copies: int = 1,
        shared: int = 0,
    ):
        self.length, self.dtype = 0, dtype  # `length`: the number of positions filled so far
        self.copies, self.shared = copies, shared
        # By layer: the maximum number of positions that it keeps; None: no maximum.
        self._limits = [None if (window := config.window(layer)) is None else window - 1 for layer in range(config.decoder_layers)]
        sizes = [length - shared if limit is None else min(limit, length) for limit in self._limits]
        shapes = [(batch_size, config.num_kv_heads, size, config.head_dim) for size in sizes]
        self._pairs: list[Pair] = [(torch.zeros(s, dtype=dtype, device=device), torch.zeros(s, dtype=dtype, device=device)) for s in shapes]
        # By layer: keys and values, each (B / copies, K, S, E), of the encoder's output (`cross`, from the first forward pass on) and of
        # the prompts' first `shared` positions (`prompts`, if these are shared).
        self.cross: dict[int, Pair] = {}
        self.prompts: dict[int, Pair] = {}

    @property
    def size(self) -> int:
        """The number of elements allocated."""
        return sum(tensor.numel() for pair in (*self._pairs, *self.prompts.values(), *self.cross.values()) for tensor in pair)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> Pair:
        """Store one layer's new keys and values (B, K, T, E). Return all that the new tokens may see, except those in `prompts`."""
        stored, limit = self._pairs[layer], self._limits[layer]
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        filled = self._filled(limit)
        if limit is None:
            end = filled + keys.shape[2]
            for store, new in zip(stored, (keys, values), strict=True):
                store[:, :, filled:end] = new
            return stored[0][:, :, :end], stored[1][:, :, :end]
        visible = torch.cat((stored[0][:, :, :filled], keys), dim=2), torch.cat((stored[1][:, :, :filled], values), dim=2)  # (B, K, S, E)
        for store, new in zip(stored, visible, strict=True):
            last = new[:, :, max(0, new.shape[2] - limit) :]
            store[:, :, : last.shape[2]] = last
        return visible

    def keep_cross(self, layer: int, keys: Tensor, values: Tensor) -> Pair:
        """Store one layer's keys and values of the encoder's output (B, K, S, E); return them in the cache's type."""
        self.cross[layer] = keys.to(self.dtype), values.to(self.dtype)
        return self.cross[layer]

    def advance(self, positions: int) -> None:
        """Count new positions as filled, after every layer has stored them."""
        self.length += positions

    def take(self, parts: Sequence[tuple["KeyValueCache", Tensor]], columns: int) -> None:
        """Fill this empty cache with rows of other caches, which are emptied; a row may be taken several times.

        `parts`: the other caches, each with the indices of the rows to take. Afterwards every row has `columns` positions: a row with
        fewer gets padding before them, and one with more loses its earliest. If `copies` > 1, `parts` has a single cache, and each group of
        `copies` successive indices names rows with the same prompt.
        """
        self.length = columns
        for layer, (pair, limit) in enumerate(zip(self._pairs, self._limits, strict=True)):
            end, first = self._filled(limit), 0
            for cache, rows in parts:
                if limit is None and self.shared:
                    keys, values = cache.prompts.get(layer, cache._pairs[layer])
                    prompts = self.prompts_of(rows, cache)
                    self.prompts[layer] = keys[:, :, -self.shared :][prompts], values[:, :, -self.shared :][prompts]
                filled = cache._filled(limit)
                count = min(filled, end)
                for store, old in zip(pair, cache._pairs[layer], strict=True):
                    store[first : first + len(rows), :, end - count : end] = old[:, :, filled - count : filled][rows]
                first += len(rows)
                cache._pairs[layer] = old[:0], old[:0]
                cache.prompts.pop(layer, None)
        for layer in parts[0][0].cross:
            width = max(cache.cross[layer][0].shape[2] for cache, _ in parts)
            padded = [
                [F.pad(one[self.prompts_of(rows, cache)], (0, 0, 0, width - one.shape[2])) for one in cache.cross[layer]]
                for cache, rows in parts
            ]
            self.cross[layer] = torch.cat([keys for keys, _ in padded]), torch.cat([values for _, values in padded])

    def prompts_of(self, rows: Tensor, other: "KeyValueCache") -> Tensor:
        """Return the index in `other` of each group's prompt, if this cache takes the rows of `other` with the indices `rows`."""
        return rows[:: self.copies] // other.copies

    def _filled(self, limit: int | None) -> int:
        """Return the number of filled positions in a layer that keeps at most `limit` (None: all), without those of shared prompts."""
        return self.length - self.shared if limit is None else min(self.length, limit)

    def reorder_rows(self, rows: Tensor) -> None:
        """Replace each row i by row `rows[i]`, which must have the same encoder output and prompt; the number of rows stays the same."""
        for pair, limit in zip(self._pairs, self._limits, strict=True):
            filled = self._filled(limit)
            for store in pair:
                store[:, :, :filled] = store[:, :, :filled][rows]


def attend_after_prompts(
    queries: Tensor, prompt: Pair, own: Pair, mask: Tensor | None, bias: Tensor | None, scale: float | None, softcap: float | None
) -> Tensor:
    """Attend from one query of each row (B, H, 1, E) to the keys of the row's prompt and to its own keys, in one softmax: (B, H, 1, E).

    `prompt`: keys and values (prompts, K, S, E), each for a group of B / prompts successive rows; one product multiplies all queries of a
    group by the keys of its prompt. `own`: keys and values (B, K, S, E).
    """
    copies, heads = len(queries) // len(prompt[0]), prompt[0].shape[1]

    def together(x: Tensor) -> Tensor:  # (B, K, G, ...) -> (prompts, K, copies * G, ...)
        return x.unflatten(0, (-1, copies)).transpose(1, 2).flatten(2, 3)

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(2, (copies, -1)).transpose(1, 2).flatten(0, 1)

    grouped = queries.unflatten(1, (heads, -1)).squeeze(3)  # (B, K, G, E)
    products = apart(together(grouped) @ prompt[0].transpose(-1, -2)), grouped @ own[0].transpose(-1, -2)
    scores = torch.cat(products, dim=-1).flatten(1, 2)[:, :, None] * (queries.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, 1, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask.repeat_interleave(len(scores) // len(mask), dim=0), float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    first, last = weights.squeeze(2).unflatten(1, (heads, -1)).split([prompt[0].shape[2], own[0].shape[2]], dim=-1)  # (B, K, G, S)
    return (apart(together(first) @ prompt[1]) + last @ own[1]).flatten(1, 2)[:, :, None]

"""The batch of texts being generated: the input of the next step, the key-value cache, and the encoder's input.

columns      0   1   2   3 | 4   5
row 0        .   .   a   b | c   d      a decoder's prompts are padded on the left, so that new tokens of all rows share a column;
row 1        p   q   r   s | t   eos    positions count real tokens only, so padding does not change a row's results

In an encoder-decoder, the encoder reads the prompts, padded on the right, and each row of the decoder begins with the start token.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer


class GenerationBatch:
    """A batch of texts, and their key-value cache. A row is a text (in beam search a beam); a column is a position in the padded texts."""

    def __init__(
        self, model: Transformer, input_ids: Tensor, real: Tensor, source: tuple[Tensor, Tensor] | None, room: int = 0, **sharing: int
    ):
        """`input_ids`: the input of the next step, (B, T). `real`, (B, columns): True for real tokens, False for padding. `source`: the
        ids and the mask of an encoder's input, (prompts, S) each. `room`: how many columns after those in `real` fit into the cache.

        `sharing`: `copies` and `shared` of KeyValueCache, for rows that share the keys and values of a prompt.
        """
        self.model, self.input_ids, self.real, self.source = model, input_ids, real, source
        self.is_padded = not bool(real.all())
        weight = model.embedding.tokens.weight
        # On a CPU, torch's attention kernel is several times as slow for one query in bf16 as in float32, so there the cache of a model
        # that is converted for inference alone (`only_answers`) is float32. Otherwise, the cache has the type of the model's weights.
        cache_type = torch.float32 if weight.device.type == "cpu" and model.only_answers else weight.dtype
        self.cache = KeyValueCache(model.config, len(real), real.shape[1] + room, cache_type, weight.device, **sharing)

    @classmethod
    def begin(
        cls, model: Transformer, texts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None = None, room: int = 0
    ) -> "GenerationBatch":
        """Return a batch whose decoder begins with the ids `texts`, with space for `room` new ids. `sources`: ids of an encoder's input."""
        device = model.embedding.tokens.weight.device
        return cls(model, *_padded(texts, device, left=True), None if sources is None else _padded(sources, device, left=False), room)

    @classmethod
    def join(cls, parts: Sequence[tuple["GenerationBatch", Sequence[int]]], room: int, copies: int = 1) -> "GenerationBatch":
        """Return a batch of rows of existing batches: `parts` has each of these batches and the indices of its rows, which may repeat. The
        caches of these batches are emptied.

        `room`: the largest number of tokens that a row may still pass to the model, those of the next step included. `copies`: if above 1,
        `parts` has one batch, and each group of `copies` successive rows shares one prompt, whose keys and values are stored once. Columns
        that begin a batch and are padding in all rows are left out, so that a full batch has room again once its longest row is removed.
        """
        first = parts[0][0]
        kept = [(one, torch.tensor(rows, dtype=torch.long, device=one.real.device)) for one, rows in parts]
        width = max(one.real.shape[1] for one, _ in kept)
        real = torch.cat([F.pad(one.real[rows], (width - one.real.shape[1], 0)) for one, rows in kept])
        real = real[:, int(real.any(dim=0).int().argmax()) :]
        uncached = first.real.shape[1] - first.cache.length  # 1 if the next input is set, whose keys are not cached yet; else 0
        columns = real.shape[1] - uncached
        shared = 0 if copies == 1 else (first.cache.shared or first.cache.length) - (first.cache.length - columns)
        input_ids = torch.cat([one.input_ids[rows] for one, rows in kept])
        joined = cls(first.model, input_ids, real, None, room - uncached, copies=copies, shared=shared)
        prompts = [(one.source, joined.cache.prompts_of(rows, one.cache)) for one, rows in kept]
        if sources := [(source[0][numbers], source[1][numbers]) for source, numbers in prompts if source is not None]:
            joined.source = _padded_right([ids for ids, _ in sources]), _padded_right([mask for _, mask in sources])
        joined.cache.take([(one.cache, rows) for one, rows in kept], columns)
        return joined

    @property
    def full(self) -> bool:
        """Whether the columns exceed the context, so `join` must remove padding before the next step; False with relative positions."""
        return self.real.shape[1] > self.model.config.context_length and self.model.config.position.kind != "relative"

    def next_logits(self) -> Tensor:
        """Run the model on the next input; return the logits (B, V) after the last token of each row. Raises ModelError if they are not
        finite.
        """
        mask = self.real if self.is_padded else None
        if self.source is None:
            output = self.model(self.input_ids, padding_mask=mask, cache=self.cache)
        else:
            ids, real = self.source  # the encoder runs in the first step only; later, its keys and values are in the cache
            output = self.model(ids, padding_mask=real, decoder_input_ids=self.input_ids, decoder_padding_mask=mask, cache=self.cache)
        logits: Tensor = self.model.head(output.hidden[:, -1])
        if not torch.isfinite(logits).all():
            raise ModelError("the model's logits are not finite (NaN or infinity): its weights are damaged or its training diverged")
        return logits

    def append(self, tokens: Sequence[int], done: Sequence[bool]) -> None:
        """Set the next input, one token per row. `done`: for each row, whether it is finished, so that its token is only padding."""
        self.input_ids = torch.tensor(tokens, device=self.real.device)[:, None]  # (B, 1)
        self.real = torch.cat((self.real, ~torch.tensor(done, device=self.real.device)[:, None]), dim=1)
        self.is_padded = self.is_padded or any(done)

    def reorder_rows(self, rows: Sequence[int]) -> None:
        """Replace the cache of row i by that of row `rows[i]`, which must have the same prompt. A row may be repeated."""
        if list(rows) != list(range(len(rows))):
            self.cache.reorder_rows(torch.tensor(rows, device=self.real.device))


def _padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return the padded ids (B, longest row), and their mask, True = real token."""
    return pad(rows, 0, left=left).to(device), real_tokens(rows, left=left).to(device)


def _padded_right(rows: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors (B, M) of several widths, padded on the right to the largest width."""
    width = max(one.shape[1] for one in rows)
    return torch.cat([F.pad(one, (0, width - one.shape[1])) for one in rows])

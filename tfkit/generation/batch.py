"""The texts being generated: the inputs of the next step, the key-value cache, and the encoder's input.

columns      0   1   2   3 | 4   5
row 0        .   .   a   b | c   d      a decoder's prompts are padded on the left, so that all rows extend at the same column;
row 1        p   q   r   s | t   eos    the model numbers positions by real tokens, so padding does not change a row's results

An encoder reads the prompts padded on the right, and the decoder's rows all begin with its start token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tfkit.errors import ModelError
from tfkit.model.key_value_cache import KeyValueCache
from tfkit.model.padding import pad, real_tokens
from tfkit.model.transformer import Transformer


class Batch:
    """The unfinished rows, their cache, and the mask of its columns that hold real tokens."""

    def __init__(self, model: Transformer, texts: Sequence[Sequence[int]], max_new: int, sources: Sequence[Sequence[int]] | None = None):
        """`texts`: the decoder's first ids; `max_new`: the largest number of new tokens of a row; `sources`: an encoder's input."""
        self.model = model
        weight = model.embedding.tokens.weight
        self.input_ids, self.real = _padded(texts, weight.device, left=True)  # (B, columns so far)
        self.source = None if sources is None else _padded(sources, weight.device, left=False)  # ids and their mask, (B, M)
        self.is_padded = not bool(self.real.all())
        # On a CPU torch's kernel takes several times as long for one query in bf16 as in float32. What a training samples keeps its bits.
        cache_type = torch.float32 if weight.device.type == "cpu" and model.only_answers else weight.dtype
        self.cache = KeyValueCache(model.config, len(texts), self.real.shape[1] + max_new, cache_type, weight.device)

    @property
    def full(self) -> bool:
        """Whether the columns no longer fit the context, so that padding must be removed before the next step."""
        return self.real.shape[1] > self.model.config.context_length and self.model.config.position.kind != "relative"

    def next_logits(self) -> Tensor:
        """Return the logits (B, V) after the last token of each row; those at other positions of a prompt are not computed.

        Raises ModelError if they are not finite.
        """
        mask = self.real if self.is_padded else None
        if self.source is None:
            output = self.model(self.input_ids, padding_mask=mask, cache=self.cache)
        else:
            ids, real = self.source  # the encoder runs in the first step only; then the cache holds its keys and values
            output = self.model(ids, padding_mask=real, decoder_input_ids=self.input_ids, decoder_padding_mask=mask, cache=self.cache)
        logits: Tensor = self.model.head(output.hidden[:, -1])
        if not torch.isfinite(logits).all():
            raise ModelError("the model's logits are not finite (NaN or infinity): its weights are damaged or its training diverged")
        return logits

    def append(self, tokens: Sequence[int], done: Sequence[bool]) -> None:
        """Set the next input, one token per row; the token of a finished row is padding."""
        self.input_ids = torch.tensor(tokens, device=self.real.device)[:, None]  # (B, 1)
        self.real = torch.cat((self.real, ~torch.tensor(done, device=self.real.device)[:, None]), dim=1)
        self.is_padded = self.is_padded or any(done)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows, which may repeat, and remove the first columns if they are then all padding.

        When the columns fill the context, the row without padding has reached its limit; removing it makes room in the others.
        """
        kept = torch.tensor(rows, device=self.real.device)
        self.cache.select_rows(kept)
        self.input_ids, self.real = self.input_ids[kept], self.real[kept]
        if self.source is not None:
            self.source = self.source[0][kept], self.source[1][kept]
        empty = int(self.real.any(dim=0).int().argmax())
        self.real = self.real[:, empty:]
        self.cache.drop_columns(empty)
        self.is_padded = not bool(self.real.all())

    def reorder_rows(self, rows: Sequence[int]) -> None:
        """Reorder and repeat rows, keeping their number; each row must have the prompt of the row that it replaces."""
        if list(rows) != list(range(len(rows))):
            self.cache.reorder_rows(torch.tensor(rows, device=self.real.device))


def _padded(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return ids (B, width of the longest) and their mask, True = real token."""
    return pad(rows, 0, left=left).to(device), real_tokens(rows, left=left).to(device)

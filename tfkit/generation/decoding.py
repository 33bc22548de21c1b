"""Decoding with a cache of keys and values: the prompts once, then one token a step for all rows that are not finished.

columns      0   1   2   3 | 4   5
row 0        .   .   a   b | c   d      prompts are padded on the left, so that all rows continue in the same column;
row 1        p   q   r   s | t   eos    the model numbers positions by real tokens, so that each row stands as if alone
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tfkit.errors import DataError, ModelError
from tfkit.generation.inference import Interrupted, inference, interruptible
from tfkit.generation.sampling import draw, probabilities
from tfkit.model.cache import KeyValueCache
from tfkit.model.head import vocabulary_head
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema import GenerationSection

Finish = Literal["stop", "length", "interrupted"]
OnToken = Callable[[int, int], bool | None]


@dataclass(frozen=True)
class Completion:
    """The new ids of one prompt, without the token that ended them, and why they end."""

    ids: list[int]
    finish: Finish


@dataclass
class _Row:
    """A prompt on its way."""

    index: int  # its place in the call
    limit: int  # new tokens that it may still become
    random: np.random.Generator
    ids: list[int] = field(default_factory=list)
    finish: Finish = "interrupted"
    done: bool = False

    def end(self, finish: Finish) -> None:
        self.finish, self.done = finish, True


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSection,
    *,
    eos_ids: Collection[int] = (),
    on_token: OnToken | None = None,
    should_stop: Callable[[], bool] | None = None,
    first_row: int = 0,
) -> list[Completion]:
    """Continue each prompt, in order; a batch gives what each prompt gives alone (in float32, ties aside).

    A row ends with "stop" at one of `eos_ids` (not part of the result) or when `on_token(row, id)` returns true, and with "length" after
    `settings.max_new_tokens` or when prompt and continuation fill the model's context. `should_stop` is asked before every step, and all
    the while the prompts are read; once it is true, the unfinished rows end as "interrupted". The draws of row i come from
    (settings.seed, first_row + i). Stop strings are text and so the matter of complete.py. Raises DataError for an empty prompt, or one
    that leaves no room.
    """
    if not prompts:
        return []
    rows = [
        _Row(i, _room(len(prompt), first_row + i, model, settings), np.random.default_rng((settings.seed, first_row + i)))
        for i, prompt in enumerate(prompts)
    ]
    with inference(model), suppress(Interrupted):
        batch = _Batch(model, prompts, rows)
        with interruptible(model, should_stop):  # only here: between single tokens it is asked often enough
            logits = batch.next_logits()
        while True:
            tokens = _choose(logits, batch.rows, settings)
            for row, token in zip(batch.rows, tokens, strict=True):
                _accept(row, token, eos_ids, on_token)
            batch.take(tokens)
            if not batch.unfinished() or (should_stop and should_stop()):
                break
            logits = batch.next_logits()
    return [Completion(row.ids, row.finish) for row in rows]


def _room(length: int, number: int, model: Transformer, settings: GenerationSection) -> int:
    context = model.config.context_length
    if length == 0:
        raise DataError(f"prompt {number + 1} has no tokens, so there is nothing to continue: give it some text")
    if length >= context:
        raise DataError(
            f"prompt {number + 1} has {length:,} tokens, but the model's context holds {context:,}, the continuation included: "
            f"shorten it to at most {context - 1:,} tokens"
        )
    return min(settings.max_new_tokens, context - length)


def _choose(logits: Tensor, rows: Sequence[_Row], settings: GenerationSection) -> list[int]:
    """The next token of each row, from logits (B, V)."""
    if not torch.isfinite(logits).all():
        raise ModelError("the model gives logits that are not finite (NaN or infinity): its weights are damaged or its training diverged")
    if settings.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
    return draw(probabilities(logits, settings), uniforms.to(logits.device)).tolist()


def _accept(row: _Row, token: int, eos_ids: Collection[int], on_token: OnToken | None) -> None:
    if row.done:
        return
    if token in eos_ids:
        row.end("stop")
        return
    row.ids.append(token)
    if on_token is not None and on_token(row.index, token):
        row.end("stop")
    elif len(row.ids) == row.limit:
        row.end("length")


class _Batch:
    """The rows that the model still computes, their cache, and which columns of it hold real tokens."""

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], rows: list[_Row]):
        self.model, self.rows = model, rows
        weight = vocabulary_head(model.head).weight
        width = max(map(len, prompts))
        self.input_ids = torch.zeros(len(rows), width, dtype=torch.long)
        self.real = torch.zeros(len(rows), width, dtype=torch.bool)  # (B, columns so far)
        for i, prompt in enumerate(prompts):
            self.input_ids[i, width - len(prompt) :] = torch.tensor(prompt)
            self.real[i, width - len(prompt) :] = True
        self.input_ids, self.real = self.input_ids.to(weight.device), self.real.to(weight.device)
        self.padded = any(len(prompt) < width for prompt in prompts)
        columns = width + max(row.limit for row in rows)
        self.cache = KeyValueCache(model.config, len(rows), columns, weight.dtype, weight.device)

    def unfinished(self) -> bool:
        return not all(row.done for row in self.rows)

    def next_logits(self) -> Tensor:
        """(B, V), after the last real token of each row; logits of the prompt's other positions are never made."""
        hidden = self.model(self.input_ids, padding_mask=self.real if self.padded else None, cache=self.cache).hidden
        logits: Tensor = self.model.head(hidden[:, -1])
        return logits

    def take(self, tokens: list[int]) -> None:
        """Make these the next input; rows that are done go along as padding until leaving them out pays."""
        done = torch.tensor([row.done for row in self.rows], device=self.real.device)
        self.input_ids = torch.tensor(tokens, device=self.real.device)[:, None]  # (B, 1)
        self.real = torch.cat((self.real, ~done[:, None]), dim=1)
        remaining = len(self.rows) - int(done.sum())
        full = self.real.shape[1] > self.model.config.context_length
        if remaining and (full or 2 * remaining <= len(self.rows)):
            self._compact(~done)
        else:
            self.padded = self.padded or remaining < len(self.rows)

    def _compact(self, kept: Tensor) -> None:
        """Drop the rows that are done, and the columns that then hold nothing but padding.

        Each drop of rows at least halves them, so that all the copies together cost no more than the cache. Whenever the columns fill the
        context, the row without padding has reached its limit: what remains begins later, and moves to the left.
        """
        self.rows = [row for row in self.rows if not row.done]
        self.cache.keep_rows(kept.nonzero().squeeze(1))
        self.input_ids, self.real = self.input_ids[kept], self.real[kept]
        empty = int(self.real.any(dim=0).int().argmax())
        self.real = self.real[:, empty:]
        self.cache.drop_columns(empty)
        self.padded = not bool(self.real.all())

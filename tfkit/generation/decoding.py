"""Decoding with a cache of keys and values: the prompts once, then one token a step for all rows that are not finished."""

import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tfkit.errors import DataError, ModelError
from tfkit.generation.batch import Batch
from tfkit.generation.beams import BeamSearch, search
from tfkit.generation.constraints import Constraints, Progress
from tfkit.generation.inference import Interrupted, inference, interruptible
from tfkit.generation.sampling import draw, probabilities, without_repetition
from tfkit.model.head import VocabularyHead
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.sections import GenerationSection

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
    text: list[int]  # the prompt, or what an encoder-decoder's decoder begins with
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
    start_id: int | None = None,
    on_token: OnToken | None = None,
    ended: Callable[[int, list[int]], bool] | None = None,
    should_stop: Callable[[], bool] | None = None,
    first_row: int = 0,
    constraints: Constraints = Constraints(),
) -> list[Completion]:
    """Continue each prompt, in order; a batch gives what each prompt gives alone (in float32, ties aside).

    An encoder-decoder reads the prompt and writes a text of its own, which begins after `start_id`.

    A row ends with "stop" at one of `eos_ids` (not part of the result) or when `on_token(row, id)` returns true, and with "length" after
    `settings.max_new_tokens` or when prompt and continuation fill the model's context. Beam search, which knows its text only at the end,
    calls `on_token` then, and asks `ended(row, ids)` on the way whether a text ends here. `should_stop` is asked before every step, and
    all the while the prompts are read; once it is true, the unfinished rows end as "interrupted". The draws of row i come from
    (settings.seed, first_row + i). `constraints`: the checkpoint's. Stop strings are text and so the matter of complete.py. Raises
    DataError for an empty prompt, or one that leaves no room, ModelError for a model that cannot write.
    """
    if not prompts:
        return []
    begin = _beginning(model, start_id)
    rows = []
    for i, prompt in enumerate(prompts):
        check_length(len(prompt), first_row + i, model)
        text = list(prompt) if begin is None else begin
        limit = constraints.limit(len(text), min(settings.max_new_tokens, _context(model) - len(text)))
        rows.append(_Row(i, text, limit, np.random.default_rng((settings.seed, first_row + i))))
    with inference(model), suppress(Interrupted):
        batch = Batch(model, [row.text for row in rows], max(row.limit for row in rows), prompts if model.encoder is not None else None)
        with interruptible(model, should_stop):  # only here: between single tokens it is asked often enough
            logits = batch.next_logits()
        if settings.num_beams == 1:
            _decode(batch, logits, rows, settings, constraints, eos_ids, on_token, should_stop)
        else:
            _search(batch, logits, rows, settings, constraints, eos_ids, on_token, ended, should_stop)
    return [Completion(row.ids, row.finish) for row in rows]


def _beginning(model: Transformer, start_id: int | None) -> list[int] | None:
    """What the decoder of an encoder-decoder begins with; None: a decoder alone begins with the prompt."""
    if model.decoder is None or not isinstance(model.head, VocabularyHead):
        what = "is an encoder" if model.decoder is None else f"has a head of the kind {model.config.head.kind}"
        raise ModelError(f"the model {what}: it reads text and cannot write any; generate needs a decoder with a language model's head")
    if model.encoder is None:
        return None
    if start_id is None:
        raise ModelError(
            "the model is an encoder-decoder, and nothing says which token its texts begin with: "
            "give config.json a decoder_start_token_id, or a pad_token_id"
        )
    return [start_id]


def _context(model: Transformer) -> int:
    """The most tokens of a text: relative positions know no end."""
    return model.config.context_length if model.config.position.kind != "relative" else sys.maxsize


def check_length(length: int, number: int, model: Transformer) -> None:
    """Raise DataError if a prompt of `length` tokens is empty, or leaves no room; `number`, from 0, is which one it is."""
    longest = _context(model) - (model.encoder is None)
    if length == 0:
        raise DataError(f"prompt {number + 1} has no tokens, so there is nothing to continue: give it some text")
    if length > longest:
        raise DataError(
            f"prompt {number + 1} has {length:,} tokens, but the model's context holds {_context(model):,}"
            f"{', the continuation included' if model.encoder is None else ''}: shorten it to at most {longest:,} tokens"
        )


def _decode(
    batch: Batch,
    logits: Tensor,
    rows: list[_Row],
    settings: GenerationSection,
    constraints: Constraints,
    eos_ids: Collection[int],
    on_token: OnToken | None,
    should_stop: Callable[[], bool] | None,
) -> None:
    """One token a row and step, greedy or drawn, from the logits (B, V) after the prompts to the end of the last row.

    Rows that are done go along until leaving them out pays: each drop at least halves them, so that all the copies together cost no more
    than the cache.
    """
    while True:
        tokens = _choose(logits, rows, settings, constraints, eos_ids)
        for row, token in zip(rows, tokens, strict=True):
            _accept(row, token, eos_ids, on_token)
        batch.take(tokens, [row.done for row in rows])
        remaining = [i for i, row in enumerate(rows) if not row.done]
        if not remaining or (should_stop and should_stop()):
            return
        if batch.full or 2 * len(remaining) <= len(rows):
            batch.keep(remaining)
            rows = [rows[i] for i in remaining]
        logits = batch.next_logits()


def _choose(
    logits: Tensor, rows: Sequence[_Row], settings: GenerationSection, constraints: Constraints, eos_ids: Collection[int]
) -> list[int]:
    """The next token of each row, from logits (B, V)."""
    logits = without_repetition(logits, (row.text + row.ids for row in rows), settings)
    logits = constraints.apply(logits, (Progress(row.text, row.ids, row.limit) for row in rows), eos_ids)
    if settings.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
    return draw(probabilities(logits, settings), uniforms).tolist()


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


def _search(
    batch: Batch,
    logits: Tensor,
    rows: Sequence[_Row],
    settings: GenerationSection,
    constraints: Constraints,
    eos_ids: Collection[int],
    on_token: OnToken | None,
    ended: Callable[[int, list[int]], bool] | None,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Beam search, from the logits (B, V) after the prompts to the end of the last row."""
    searches = [BeamSearch(row.text, row.limit, settings, eos_ids, None if ended is None else partial(ended, row.index)) for row in rows]
    search(batch, logits, searches, settings, constraints, should_stop)
    for row, one in zip(rows, searches, strict=True):
        for token in one.best:
            _accept(row, token, (), on_token)
        if one.done and not row.done:
            row.end(one.whole[0].ending if one.whole else "stop")  # none: every next token is excluded

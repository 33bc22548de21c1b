"""Decoding with a key-value cache: forward passes over prompts, then one token per step for every unfinished row.

Continuous batching, except in beam search: if not all prompts fit into a batch, the longest begin first, those of similar lengths in one
forward pass, and waiting prompts later replace those that have ended. So there is little padding, and batches stay full.
"""

import sys
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tfkit.errors import DataError, ModelError
from tfkit.generation.batch import GenerationBatch
from tfkit.generation.beams import BeamSearch, search
from tfkit.generation.inference import Interrupted, inference, interruptible
from tfkit.generation.next_token import Constraints, UnfinishedText, draw, probabilities, without_repetition
from tfkit.model.config import LongRopeScaling, Rotary
from tfkit.model.head import VocabularyHead
from tfkit.model.transformer import Transformer
from tfkit.recipe.schema.output_sections import GenerationSection

AT_ONCE = 32  # most rows in a batch; GPT-2 124M in bf16 on 2 cores decodes 385 tokens/s with 8 rows, 574 with 16, 681 with 32, 774 with 64
_MOST_TOKENS = 16_384  # with `at_once`, the most tokens in the cache, with padding, when a row begins; a single row may have more
_TOKENS_READ = 512  # the most tokens of a group of prompts, with padding, unless it has one prompt; forward passes over more are no faster

Finish = Literal["stop", "length", "interrupted"]
OnToken = Callable[[int, int], bool | None]  # called with the index of the prompt and a new id; true ends the text


@dataclass(frozen=True)
class Completion:
    """The new ids of one prompt, without the eos that ended them, and why they ended."""

    ids: list[int]
    finish: Finish


@dataclass
class _Row:
    """A prompt and its continuation so far."""

    index: int  # the index of the prompt
    prompt: Sequence[int]
    text: list[int]  # the decoder's first ids: the prompt or, for an encoder-decoder, the start token
    limit: int  # the largest number of new tokens
    random: np.random.Generator
    ids: list[int] = field(default_factory=list)
    finish: Finish = "interrupted"
    done: bool = False

    def end(self, finish: Finish) -> None:
        self.finish, self.done = finish, True


@dataclass(frozen=True)
class _Options:
    """The arguments of `generate` that control the choice of tokens and the end of a row."""

    settings: GenerationSection
    constraints: Constraints
    eos_ids: Collection[int]
    on_token: OnToken | None
    ended: Callable[[int, list[int]], bool] | None
    should_stop: Callable[[], bool] | None


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
    at_once: int | None = None,
) -> list[Completion]:
    """Return the continuation of each prompt. In float32, none depends on other prompts, unless tokens are almost equally likely.

    An encoder-decoder's encoder reads the prompt, and its decoder generates a text after `start_id`.

    A row (a prompt and its continuation) ends with "stop" at one of `eos_ids`, which is left out, or when `on_token(row, id)` returns true,
    and with "length" after `settings.max_new_tokens`, or at the end of the context. Beam search calls `on_token` only at its end, when
    its text is known; during the search, `ended(row, ids)` says whether a candidate is complete. `should_stop` is called before every step
    and, while prompts are read, before every module of the model; once it returns true, the unfinished rows end as "interrupted". Row i is
    sampled with the seed (settings.seed, first_row + i). `constraints`: those of the checkpoint. `at_once`: the largest number of rows,
    beams included, that run at the same time; None: all rows run, and their prompts are read in one forward pass.

    Stop strings are handled in complete.py, not here. Raises DataError for an empty prompt or one that is too long, ModelError for a
    model that cannot generate, or whose logits are not finite.
    """
    if not prompts:
        return []
    begin = _beginning(model, start_id)
    rows = []
    for i, prompt in enumerate(prompts):
        check_length(len(prompt), first_row + i, model)
        text = list(prompt) if begin is None else begin
        limit = constraints.limit(len(text), min(settings.max_new_tokens, max(1, _context(model, len(text)) - len(text))))
        rows.append(_Row(i, prompt, text, limit, np.random.default_rng((settings.seed, first_row + i))))
    options = _Options(settings, constraints, eos_ids, on_token, ended, should_stop)
    with inference(model), suppress(Interrupted):
        (_decode if settings.num_beams == 1 else _search)(model, _Waiting(rows, at_once), options)
    return [Completion(row.ids, row.finish) for row in rows]


def _beginning(model: Transformer, start_id: int | None) -> list[int] | None:
    """Return the first ids of an encoder-decoder's decoder; None for a decoder-only model, whose text begins with the prompt itself.

    Raises ModelError for a model that cannot generate.
    """
    if model.decoder is None or not isinstance(model.head, VocabularyHead):
        what = "is an encoder" if model.decoder is None else f"has a head of the kind {model.config.head.kind}"
        raise ModelError(f"the model {what}: it reads text and cannot write any; generate needs a decoder with a language model's head")
    if model.encoder is None:
        return None
    if start_id is None:
        raise ModelError(
            "the model is an encoder-decoder, and its config does not name the token that starts its texts: "
            "give config.json a decoder_start_token_id, or a pad_token_id"
        )
    return [start_id]


def _context(model: Transformer, length: int = sys.maxsize) -> int:
    """Return the largest number of tokens of a text, including its prompt of `length` tokens; sys.maxsize with relative positions.

    With longrope, a text whose prompt fits the original context may not grow beyond that context: the rotation of positions would change,
    and the cached keys and values would no longer be valid.
    """
    config = model.config
    scaling = config.position.scaling if isinstance(config.position, Rotary) else None
    if isinstance(scaling, LongRopeScaling) and length <= scaling.original_context_length:
        return min(scaling.original_context_length, config.context_length)
    return config.context_length if config.position.kind != "relative" else sys.maxsize


def check_length(length: int, number: int, model: Transformer) -> None:
    """Raise DataError if a prompt of `length` tokens is empty or too long for the context; `number`: the prompt's index, from 0."""
    longest = _context(model) - (model.encoder is None)
    if length == 0:
        raise DataError(f"prompt {number + 1} has no tokens, so there is nothing to continue: give it some text")
    if length > longest:
        raise DataError(
            f"prompt {number + 1} has {length:,} tokens, but the model's context holds {_context(model):,}"
            f"{', the continuation included' if model.encoder is None else ''}: shorten it to at most {longest:,} tokens"
        )


class _Waiting:
    """The rows whose generation has not begun. `at_once`: how many rows may run at the same time, those with the longest prompts first;
    None: all rows, in the order given.
    """

    def __init__(self, rows: list[_Row], at_once: int | None):
        self.at_once = at_once
        self.rows = deque(rows if at_once is None else sorted(rows, key=lambda row: -len(row.prompt)))

    def take(self, running: Sequence[_Row] = (), beams: int = 1) -> list[list[_Row]]:
        """Remove and return the rows that can begin now, in groups whose prompts can be read in one pass. `running`: the rows that
        have begun and not ended. `beams`: the number of beams per row.

        No row begins while more than three quarters of `at_once` rows run, since the whole cache is copied whenever rows begin.
        """
        if self.at_once is None:
            groups = [[*self.rows]] if self.rows else []
            self.rows.clear()
            return groups
        groups = []
        count, columns = len(running), max((len(row.prompt) + len(row.ids) for row in running), default=0)
        while self.rows and 4 * len(running) <= 3 * self.at_once:
            columns = max(columns, len(self.rows[0].prompt))
            if count and ((count + 1) * beams > self.at_once or (count + 1) * beams * columns > _MOST_TOKENS):
                break
            if not groups or (len(groups[-1]) + 1) * len(groups[-1][0].prompt) > _TOKENS_READ:
                groups.append([])
            groups[-1].append(self.rows.popleft())
            count += 1
        return groups


def _begin(
    model: Transformer, rows: Sequence[_Row], should_stop: Callable[[], bool] | None, room: int = 0
) -> tuple[GenerationBatch, Tensor]:
    """Return a batch of `rows` whose prompts the model has read, with space for `room` new tokens, and its next logits (B, V)."""
    batch = GenerationBatch.begin(model, [row.text for row in rows], None if model.encoder is None else [row.prompt for row in rows], room)
    with interruptible(model, should_stop):  # later steps compute one token a row, so a check before each step suffices
        return batch, batch.next_logits()


def _decode(model: Transformer, waiting: _Waiting, options: _Options) -> None:
    """Generate one token per row and step, greedily or by sampling, until all rows end or `should_stop()` is true.

    Finished rows are removed when new rows join, when the context is full, or when at least half of the rows are finished, not earlier,
    since each removal copies the cache.
    """
    parts: list[tuple[GenerationBatch, list[_Row]]] = []  # the running batch with its rows, and new batches, which are joined to it below
    while not (options.should_stop and options.should_stop()):
        groups = waiting.take([row for _, rows in parts for row in rows if not row.done])
        is_alone = len(groups) == 1 and not parts  # the new batch is not joined to others, so it needs space for all tokens from the start
        for group in groups:
            batch, logits = _begin(model, group, options.should_stop, max(row.limit for row in group) if is_alone else 0)
            _extend(batch, logits, group, options)
            parts.append((batch, group))
        rows = [row for _, rows in parts for row in rows]
        running = [row for row in rows if not row.done]
        if not running:
            if not waiting.rows:
                return
            parts = []
            continue
        leave = len(parts) > 1 or parts[0][0].full or 2 * len(running) <= len(rows)
        if leave or (groups and not is_alone):
            kept = [(batch, [i for i, row in enumerate(rows) if not (row.done and leave)]) for batch, rows in parts]
            parts = [(GenerationBatch.join(kept, max(row.limit - len(row.ids) for row in running)), running if leave else rows)]
        [(batch, rows)] = parts
        _extend(batch, batch.next_logits(), rows, options)


def _extend(batch: GenerationBatch, logits: Tensor, rows: Sequence[_Row], options: _Options) -> None:
    """Choose the next token of each row from its `logits` (B, V), append it to the batch, and extend or end the row by it."""
    logits = without_repetition(logits, (row.text + row.ids for row in rows), options.settings)
    logits = options.constraints.apply(logits, (UnfinishedText(row.text, row.ids, row.limit) for row in rows), options.eos_ids)
    if options.settings.temperature == 0:
        tokens = logits.argmax(dim=-1).tolist()
    else:
        uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
        tokens = draw(probabilities(logits, options.settings), uniforms).tolist()
    for row, token in zip(rows, tokens, strict=True):
        _accept(row, token, options.eos_ids, options.on_token)
    batch.append(tokens, [row.done for row in rows])


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


def _search(model: Transformer, waiting: _Waiting, options: _Options) -> None:
    beams = options.settings.num_beams
    while groups := waiting.take(beams=beams):
        rows = [row for group in groups for row in group]
        batch, logits = _begin(model, rows, options.should_stop)
        searches = []
        for row in rows:
            ended = None if options.ended is None else partial(options.ended, row.index)
            searches.append(BeamSearch(row.text, row.limit, options.settings, options.eos_ids, ended))
        search(batch, logits, searches, options.settings, options.constraints, options.should_stop)
        for row, one in zip(rows, searches, strict=True):
            for token in one.best:
                _accept(row, token, (), options.on_token)
            if one.done and not row.done:
                row.end(one.completed[0].ending if one.completed else "stop")  # no complete text: all next tokens were excluded

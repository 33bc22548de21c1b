"""Checks of the data before the first step, for faults that would cause no error, only a worse model."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from tfkit.data import ExampleSet, Source
from tfkit.data.columns.rows import describe_skipped
from tfkit.engine.listener import Listener
from tfkit.errors import DataError
from tfkit.evaluation.lost_rows import describe_lost, lost_rows, reasons
from tfkit.objectives.context import LONGER_ROWS, Stored
from tfkit.objectives.labelled import LabelledObjective
from tfkit.recipe.schema.roles import Role
from tfkit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tfkit.engine.assembly.training_data import ValidationSet

_ROWS = 1_000  # number of rows at the beginning of each source that are checked
_HEAD = 256  # number of a text's characters that are searched for a special token at its start: more than any such token has
_WORD = re.compile(r"[^\W\d_]{4,}")
_FEWEST_WORDS, _MOST_WORDS = 200, 2_000  # the tokenizer is judged by at least and at most this many distinct words of a source
# Checkpoints for many languages, to suggest in place of an encoder or a decoder whose tokenizer does not fit the texts.
_MULTILINGUAL = {"encoder": "hub:distilbert/distilbert-base-multilingual-cased", "decoder": "hub:google/gemma-2-2b"}


def check_openings(sources: Sequence[Source], roles: Sequence[Role], tokenizer: Tokenizer) -> None:
    """Raise DataError if a text in the first rows of a source begins with the special token that the tokenizer puts before every text.

    Called for tokenizers whose ids of such a text begin with two of these tokens: a model would be trained with two, and later get one.
    """
    opening = tokenizer.prefix[-1]
    for source in sources:
        heads = [
            (row.place, role.name, str(row.values[role.name])[:_HEAD])
            for row in islice(source.rows(), _ROWS)
            for role in roles
            if role.form == "text" and role.name in row.values
        ]
        encoded = tokenizer.encode_texts([text for *_, text in heads])
        for (place, name, _), ids in zip(heads, encoded, strict=True):
            if ids[len(tokenizer.prefix) : len(tokenizer.prefix) + 1] == [opening]:
                token = tokenizer.backend.id_to_token(opening)
                raise DataError(
                    f"{place}: the {name} begins with {token}, which the tokenizer puts before every text: the model would see it twice; "
                    "remove it from the texts of this source, or use a tokenizer that puts none there"
                )


def misfit(source: Source, tokenizer: Tokenizer, stack: str) -> str | None:
    """Return a warning if most words of the first rows are tokenized with at most two letters per token, or with an unknown token.

    Return None if most words fit, or if the first rows have too few words. A wide letter, such as a Chinese one, counts as three letters.
    `stack`: encoder, decoder or both; it chooses the checkpoint that the warning suggests.
    """
    found: dict[str, None] = {}
    for row in islice(source.rows({}), _ROWS):
        found.update(dict.fromkeys(_WORD.findall(row.text[: 16 * _HEAD])))
        if len(found) >= _MOST_WORDS:
            break
    words = list(found)[:_MOST_WORDS]
    if len(words) < _FEWEST_WORDS:
        return None
    spelled = zip(*(tokenizer.encode_bare([f"{space}{word}" for word in words]) for space in (" ", "")), strict=True)
    pieces = {word: min(both, key=len) for word, both in zip(words, spelled, strict=True)}
    letters = {word: sum(3 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in word) for word in words}
    cut = [word for word, ids in pieces.items() if letters[word] <= 2 * len(ids) or tokenizer.unk_id in ids.tolist()]
    if 2 * len(cut) <= len(words):
        return None
    shown = cut[len(cut) // 2]
    other = f", such as {_MULTILINGUAL[stack]}" if stack in _MULTILINGUAL else ""
    return (
        f"{source.name}: the tokenizer does not fit the language of these texts: {len(cut) / len(words):.0%} of {len(words):,} different "
        f"words are read in pieces of one or two letters, or not at all ({shown!r} in {len(pieces[shown])}), so rows are long and little "
        f"of what the model knows is of use. A checkpoint of this language, or of many, would fit{other}; or a model trained on such texts"
    )


def check_lost(stored: Sequence[Stored], limit: float) -> None:
    """Raise DataError if more than the fraction `limit` of a source's rows was skipped, or more than this fraction was truncated."""
    allowed = f": more than data.max_lost, {limit:.4g}, allows"
    for one in stored:
        skipped = sum(kind.rows for kind in one.skipped.values())
        if skipped > limit * (len(one) + skipped):
            bad = describe_skipped(one.name, one.skipped)
            raise DataError(f"{bad}; of {len(one) + skipped:,} rows{allowed}; repair them, or raise the limit")
        if isinstance(one, ExampleSet) and one.truncated > limit * len(one):
            raise DataError(f"{one.describe()}{allowed}; {LONGER_ROWS}, shorten the rows, or raise the limit")


def with_lost(
    held_out: "ValidationSet", objective: LabelledObjective, listener: Listener, count: int | None = None, *, by_loss: bool = False
) -> "ValidationSet":
    """Return the set with `lost` set to the valid rows that the model cannot process, among the first `count` examples (None: all).

    A warning reports these rows as lost, so they no longer count as skipped. `by_loss`: only a loss is evaluated, without such rows.
    """
    stored = held_out.examples
    lost = lost_rows(held_out.source, stored, objective, len(stored) if count is None else count)
    if note := describe_lost(held_out.source.name, lost, by_loss=by_loss):
        listener.warn(note)
    kept = {kind: skipped for kind, skipped in stored.skipped.items() if kind not in reasons(lost)}
    return replace(held_out, stored=replace(stored, skipped=kept), lost=lost)

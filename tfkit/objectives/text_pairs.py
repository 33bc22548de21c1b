"""Encoding of texts, or pairs of texts, that fit a context, with special tokens from the tokenizer's template.

If the template puts nothing between two texts (GPT's, GPT-2's), eos separates them; without eos pairs are an error, and a template of
columns is the remedy.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tfkit.data.order.sentence_pairs import fit
from tfkit.errors import DataError, ModelError
from tfkit.objectives.context import LONGER_ROWS
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs, joins_pairs


class TextIds(NamedTuple):
    """The ids of a text or pair with its special tokens, the segment of each (0 or 1), and whether it was truncated."""

    ids: list[int]
    segments: list[int]
    truncated: bool


def encode_texts(tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], length: int) -> list[TextIds]:
    """Encode texts and pairs, truncated to `length` ids each. In a pair, the longer text loses its last ids until both fit.

    Raises DataError for pairs if the tokenizer has no separator, ModelError if the special tokens leave no room.
    """
    check_room(tokenizer, length)
    singles = [i for i, (_, pair) in enumerate(texts) if pair is None]
    pairs = [i for i, (_, pair) in enumerate(texts) if pair is not None]
    encoded: dict[int, TextIds] = {}
    for i, ids in zip(singles, tokenizer.encode_texts([texts[i][0] for i in singles]), strict=True):
        encoded[i] = _single(tokenizer, ids, length)
    joined = _pairs(tokenizer, [(texts[i][0], texts[i][1] or "") for i in pairs], length) if pairs else []
    encoded |= dict(zip(pairs, joined, strict=True))
    return [encoded[i] for i in range(len(texts))]


def check_room(tokenizer: Tokenizer, length: int) -> None:
    """Raise ModelError if the special tokens of the template leave no room for text."""
    if length <= len(tokenizer.prefix) + len(tokenizer.suffix):
        raise no_room(length)


def no_room(length: int) -> ModelError:
    """Return the error for rows that are too short."""
    return ModelError(f"rows of {length} tokens have no room for text and the special tokens; {LONGER_ROWS}")


def _pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int) -> list[TextIds]:
    if joins_pairs(tokenizer):
        if length < len(encode_pairs(tokenizer, [("", "")])[0][0]) + 2:  # the template around two texts, and one id of each
            raise no_room(length)
        return [TextIds(*pair) for pair in encode_pairs(tokenizer, pairs, length)]
    separator = tokenizer.sep_id if tokenizer.eos_id is None else tokenizer.eos_id
    if separator is None:
        raise DataError(
            "the tokenizer has no token to put between the two texts of a pair; put both into one text, with words of your own "
            "between them: columns: {text: '{premise} => {hypothesis}'}"
        )
    room = length - len(tokenizer.prefix) - 1 - len(tokenizer.suffix)
    if room < 2:
        raise no_room(length)
    encoded = []
    for first, second in zip(*(tokenizer.encode_bare(texts) for texts in zip(*pairs, strict=True)), strict=True):
        kept, kept_second = fit(len(first), len(second), room)
        ids = [*tokenizer.prefix, *first[:kept].tolist(), separator, *second[:kept_second].tolist(), *tokenizer.suffix]
        encoded.append(TextIds(ids, [0] * len(ids), len(first) + len(second) > room))
    return encoded


def _single(tokenizer: Tokenizer, ids: list[int], length: int) -> TextIds:
    """Truncate the ids of a text before the template's suffix."""
    if len(ids) <= length:
        return TextIds(ids, [0] * len(ids), False)
    suffix = list(tokenizer.suffix)
    ids = ids[: length - len(suffix)] + suffix
    return TextIds(ids, [0] * len(ids), True)

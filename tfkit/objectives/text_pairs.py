"""Texts, or pairs of texts, as ids that fit a context: special tokens by the tokenizer's own template.

A tokenizer whose template puts nothing between two texts (GPT-2's, GPT's) would run them together: the token that ends a text is then
between them. One without such a token can have no pairs, and a template of columns is the remedy.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tfkit.data.order.sentence_pairs import fit
from tfkit.errors import DataError, ModelError
from tfkit.objectives.context import LONGER_ROWS
from tfkit.tokenizer import Tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs, joins_pairs


class TextIds(NamedTuple):
    """The ids of a text or pair with its special tokens, the segment of each (0 or 1), and whether something was cut off."""

    ids: list[int]
    segments: list[int]
    truncated: bool


def encode_texts(tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], length: int) -> list[TextIds]:
    """At most `length` ids each: a text loses its end, of a pair the longer text its last ids until both fit.

    Raises DataError for a pair that nothing could join, ModelError for a length that the special tokens fill.
    """
    check_room(tokenizer, length)
    singles = [i for i, (_, pair) in enumerate(texts) if pair is None]
    pairs = [i for i, (_, pair) in enumerate(texts) if pair is not None]
    found: dict[int, TextIds] = {}
    for i, ids in zip(singles, tokenizer.encode_texts([texts[i][0] for i in singles]), strict=True):
        found[i] = _single(tokenizer, ids, length)
    joined = _pairs(tokenizer, [(texts[i][0], texts[i][1] or "") for i in pairs], length) if pairs else []
    found |= dict(zip(pairs, joined, strict=True))
    return [found[i] for i in range(len(texts))]


def check_room(tokenizer: Tokenizer, length: int) -> None:
    """Raise ModelError if nothing of a text fits beside what the template puts around it."""
    if length <= len(tokenizer.prefix) + len(tokenizer.suffix):
        raise no_room(length)


def no_room(length: int) -> ModelError:
    """Error for rows of such a length."""
    return ModelError(f"rows of {length} tokens have no room for text and the special tokens; {LONGER_ROWS}")


def _pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int) -> list[TextIds]:
    if joins_pairs(tokenizer):
        if length < len(encode_pairs(tokenizer, [("", "")])[0][0]) + 2:  # the template around two texts, and one id of each
            raise no_room(length)
        return [TextIds(*pair) for pair in encode_pairs(tokenizer, pairs, length)]
    between = tokenizer.sep_id if tokenizer.eos_id is None else tokenizer.eos_id
    if between is None:
        raise DataError(
            "the tokenizer has no token to put between the two texts of a pair; put both into one text, with words of your own "
            "between them: columns: {text: '{premise} => {hypothesis}'}"
        )
    room = length - len(tokenizer.prefix) - 1 - len(tokenizer.suffix)
    if room < 2:
        raise no_room(length)
    found = []
    for first, second in zip(*(tokenizer.encode_bare(texts) for texts in zip(*pairs, strict=True)), strict=True):
        kept, kept_second = fit(len(first), len(second), room)
        ids = [*tokenizer.prefix, *first[:kept].tolist(), between, *second[:kept_second].tolist(), *tokenizer.suffix]
        found.append(TextIds(ids, [0] * len(ids), len(first) + len(second) > room))
    return found


def _single(tokenizer: Tokenizer, ids: list[int], length: int) -> TextIds:
    """The text is cut at its end, before what the template puts behind it."""
    if len(ids) <= length:
        return TextIds(ids, [0] * len(ids), False)
    behind = list(tokenizer.suffix)
    ids = ids[: length - len(behind)] + behind
    return TextIds(ids, [0] * len(ids), True)

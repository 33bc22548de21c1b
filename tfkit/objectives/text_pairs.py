"""Texts, or pairs of texts, as ids that fit a context: special tokens by the tokenizer's own template."""

from collections.abc import Sequence
from typing import NamedTuple

from tfkit.tokenizer import Tokenizer


class TextIds(NamedTuple):
    """The ids of a text or pair with its special tokens, the segment of each (0 or 1), and whether something was cut off."""

    ids: list[int]
    segments: list[int]
    truncated: bool


def encode_texts(tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]], length: int) -> list[TextIds]:
    """At most `length` ids each: a text loses its end, of a pair the longer text its last ids until both fit."""
    singles = [i for i, (_, pair) in enumerate(texts) if pair is None]
    pairs = [i for i, (_, pair) in enumerate(texts) if pair is not None]
    found: dict[int, TextIds] = {}
    for i, ids in zip(singles, tokenizer.encode_texts([texts[i][0] for i in singles]), strict=True):
        found[i] = _single(tokenizer, ids, length)
    joined = tokenizer.encode_pairs([(texts[i][0], texts[i][1] or "") for i in pairs], length) if pairs else []
    found |= {i: TextIds(*pair) for i, pair in zip(pairs, joined, strict=True)}
    return [found[i] for i in range(len(texts))]


def _single(tokenizer: Tokenizer, ids: list[int], length: int) -> TextIds:
    """The text is cut at its end, before what the template puts behind it."""
    if len(ids) <= length:
        return TextIds(ids, [0] * len(ids), False)
    behind = list(tokenizer.suffix)
    ids = ids[: length - len(behind)] + behind
    return TextIds(ids, [0] * len(ids), True)

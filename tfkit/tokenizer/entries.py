"""The readable form of a vocabulary's entries, and the number of UTF-8 bytes that a token covers, from which bits per byte are computed."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfkit.tokenizer.pipelines import BYTE_OF
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors

_MARKS = {ord(" "): "Ġ", ord("\n"): "Ċ", ord("\t"): "ĉ", ord("\r"): "č"}  # the signs that a byte-level vocabulary uses for white space
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HEAD = 256  # characters of a text that are encoded first; the second token begins within them, unless the first word is very long


def readable_entry(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the readable form of an entry: the entry itself, or, if its bytes are whole characters, these, with Ġ for a space."""
    entry = tokenizer.backend.id_to_token(token_id) or f"<{token_id}>"
    if entry.isascii() or not tokenizer.byte_level or any(character not in BYTE_OF for character in entry):
        return entry
    try:
        text = bytes(BYTE_OF[character] for character in entry).decode()
    except UnicodeDecodeError:  # the entry has only some bytes of a character
        return entry
    return text.translate(_MARKS) if text.translate(_MARKS).isprintable() else entry


def token_bytes(tokenizer: Tokenizer, token_id: int) -> int:
    """Return the number of UTF-8 bytes that an id decodes to when it is the first of a text. Raises ValueError for an unknown id."""
    token = tokenizer.backend.id_to_token(int(token_id))
    if token is None:
        raise ValueError(f"token id {token_id} is not in the vocabulary of {tokenizer.size} entries")
    if token in tokenizer.added_tokens:
        return len(token.encode())
    if tokenizer.byte_level:
        return len(token)  # each character represents a byte (GPT-2's alphabet)
    if _BYTE_FALLBACK.fullmatch(token):
        return 1
    return len(tokenizer.decode([int(token_id)]).encode())


def opening_bytes(tokenizer: Tokenizer, text: str, ids: Sequence[int] | NDArray[np.uint32]) -> int:
    """Return the number of UTF-8 bytes of a text that its first id covers; all bytes if the text has no ids.

    Unlike `token_bytes`, this is also exact for lossy tokenizers such as BERT's, whose unknown token covers a whole word.
    """
    if len(ids) == 0:
        return len(text.encode())
    token = tokenizer.backend.id_to_token(int(ids[0]))
    if tokenizer.byte_level or (token and _BYTE_FALLBACK.fullmatch(token)):
        return min(token_bytes(tokenizer, int(ids[0])), len(text.encode()))
    length = _HEAD
    while True:
        with tokenizer_errors():
            head = tokenizer.backend.encode(text[:length], add_special_tokens=False)
        if len(head) == 0 and length >= len(text):
            return len(text.encode())
        if len(head) > 1 or length >= len(text):
            # The ▁ that SentencePiece puts before a text may be a token of its own. Such a token covers no bytes, but has the offsets of
            # the text's first character, with which the second token begins.
            end = min([head.offsets[0][1], *(start for start, _ in head.offsets[1:2])])
            return len(text[:end].encode())
        length *= 2

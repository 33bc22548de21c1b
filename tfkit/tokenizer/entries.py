"""Entries of a vocabulary in a form that people can read."""

from tfkit.tokenizer.pipelines import BYTE_OF
from tfkit.tokenizer.tokenizer import Tokenizer

_MARKS = {ord(" "): "Ġ", ord("\n"): "Ċ", ord("\t"): "ĉ", ord("\r"): "č"}  # the signs that the vocabulary uses for white space


def readable_entry(tokenizer: Tokenizer, token_id: int) -> str:
    """Return an entry of the vocabulary; a byte-level one as text if its bytes are whole characters, with marks for spaces only."""
    entry = tokenizer.backend.id_to_token(token_id) or f"<{token_id}>"
    if entry.isascii() or not tokenizer.byte_level or any(character not in BYTE_OF for character in entry):
        return entry
    try:
        text = bytes(BYTE_OF[character] for character in entry).decode()
    except UnicodeDecodeError:  # a part of a character
        return entry
    return text.translate(_MARKS) if text.translate(_MARKS).isprintable() else entry

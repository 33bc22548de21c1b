"""Entries of a vocabulary in a form that people can read."""

from tfkit.tokenizer.tokenizer import Tokenizer


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's byte-level vocabulary: printable bytes are themselves, others characters from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_alphabet()
_MARKS = {ord(" "): "Ġ", ord("\n"): "Ċ", ord("\t"): "ĉ", ord("\r"): "č"}  # as the vocabulary writes them


def readable_entry(tokenizer: Tokenizer, token_id: int) -> str:
    """Return an entry of the vocabulary; a byte-level one as text if its bytes are whole characters, with marks for spaces only."""
    entry = tokenizer.backend.id_to_token(token_id) or f"<{token_id}>"
    if entry.isascii() or not tokenizer.byte_level or any(character not in _BYTES for character in entry):
        return entry
    try:
        text = bytes(_BYTES[character] for character in entry).decode()
    except UnicodeDecodeError:  # a part of a character
        return entry
    return text.translate(_MARKS) if text.translate(_MARKS).isprintable() else entry

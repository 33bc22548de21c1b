"""Sentences of a text, for objectives that ask whether one follows another.

A sentence ends with its line, and where a final punctuation mark is followed by a space and no lower-case letter (`e.g. this` continues).
Lines of code are sentences, too. The cuts are before white space, where BERT's tokenizer begins a new word anyway.
"""

import re

_END = re.compile(r"""\S(?=[^\S\n]*\n)|(?<![.!?…])[.!?…]+["'”’»)\]]*(?=\s+[^a-z\s])|[。！？][」』”’）]*""")


def split_sentences(text: str) -> list[str]:
    """Return the text in parts, with nothing left out; white space is at their beginnings."""
    ends = [found.end() for found in _END.finditer(text)]
    starts = [0, *(end for end in ends if end < len(text))]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]

"""Where the sentences of a text end: for objectives that ask whether one follows another.

A sentence ends with its line, and where a mark that ends sentences is followed by a space and no small letter (`e.g. this` goes on). Lines
of code are sentences, too. The cuts stand before white space, where BERT's tokenizer begins a new word anyway.
"""

import re

_END = re.compile(r"""\S(?=[^\S\n]*\n)|(?<![.!?…])[.!?…]+["'”’»)\]]*(?=\s+[^a-z\s])|[。！？][」』”’）]*""")


def split_sentences(text: str) -> list[str]:
    """The text in parts, with nothing left out; white space stands at their beginnings."""
    ends = [found.end() for found in _END.finditer(text)]
    starts = [0, *(end for end in ends if end < len(text))]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]

"""Splitting of texts into sentences, for next sentence prediction.

A sentence ends at the end of its line, or after final punctuation that is followed by white space and no lower-case letter (`e.g. this`
is not split). Lines of code are sentences, too. Texts are cut before white space, where BERT's tokenizer begins a new word anyway.
"""

import re

_END = re.compile(r"""\S(?=[^\S\n]*\n)|(?<![.!?…])[.!?…]+["'”’»)\]]*(?=\s+[^a-z\s])|[。！？][」』”’）]*""")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, each with the white space before it; together they are the whole text."""
    ends = [match.end() for match in _END.finditer(text)]
    starts = [0, *(end for end in ends if end < len(text))]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]

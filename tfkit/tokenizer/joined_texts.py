"""Two texts in one row, and sentences given as words: in the tokenizer's own template, cut to a length."""

from collections.abc import Sequence

from tfkit.tokenizer.broken import broken_tokenizer
from tfkit.tokenizer.tokenizer import Tokenizer


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int | None = None
) -> list[tuple[list[int], list[int], bool]]:
    """Return the ids of two texts each, joined by the template for pairs; the segment of each id, 0 or 1; and whether ids were cut off.

    With `length` the longer text loses its last ids until both fit, as in BERT's own fine-tuning.
    """
    backend = tokenizer.backend if length is None else tokenizer.truncating(length)
    with broken_tokenizer():
        encodings = backend.encode_batch_fast(list(pairs))
    return [(encoding.ids, encoding.type_ids, bool(encoding.overflowing)) for encoding in encodings]


def joins_pairs(tokenizer: Tokenizer) -> bool:
    """Return whether the template puts anything between two texts: GPT-2's and GPT's have none for pairs."""
    with broken_tokenizer():
        pair, single = tokenizer.backend.encode("x", "x"), tokenizer.backend.encode("x", add_special_tokens=False)
    return len(pair) > 2 * len(single) + len(tokenizer.prefix) + len(tokenizer.suffix)


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], length: int) -> list[tuple[list[int], list[int | None], bool]]:
    """Return the ids of each sentence given as words, in its template; the number of the word of each id, None for the template's; and
    whether ids were cut off its end, so that at most `length` are left.

    Equals transformers' `is_split_into_words=True`. Where a space belongs to the word that it precedes (GPT-2's `Ġ`) each word has one,
    the first too, as with transformers' `add_prefix_space=True`: otherwise the words of a sentence would run together.
    """
    if _runs_words_together(tokenizer):
        sentences = [[f" {word}" for word in words] for words in sentences]
    with broken_tokenizer():
        encodings = tokenizer.truncating(length).encode_batch([list(words) for words in sentences], is_pretokenized=True)
    return [(encoding.ids, encoding.word_ids, bool(encoding.overflowing)) for encoding in encodings]


def _runs_words_together(tokenizer: Tokenizer) -> bool:
    """Return whether words need a space before them: the tokenizer itself puts nothing between the words of a sentence."""
    with broken_tokenizer():
        words = tokenizer.backend.encode(["x", "x"], is_pretokenized=True, add_special_tokens=False)
        return words.ids != tokenizer.backend.encode("x x", add_special_tokens=False).ids

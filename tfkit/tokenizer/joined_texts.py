"""Encoding of pairs of texts, and of sentences given as words, with the tokenizer's template, truncated to a length."""

from collections.abc import Sequence
from functools import partial

from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int | None = None
) -> list[tuple[list[int], list[int], bool]]:
    """Return for each pair its ids in the template for pairs, the segment (0 or 1) of each id, and whether it was truncated.

    With `length`, the longer text loses its last ids until both fit, as in BERT's own fine-tuning. None: no truncation.
    """
    backend = tokenizer.backend if length is None else tokenizer.truncating(length)
    with tokenizer_errors():
        encodings = backend.encode_batch_fast(list(pairs))
    return [(encoding.ids, encoding.type_ids, bool(encoding.overflowing)) for encoding in encodings]


def joins_pairs(tokenizer: Tokenizer) -> bool:
    """Whether the template puts a token between two texts; GPT's and GPT-2's do not."""
    with tokenizer_errors():
        pair, single = tokenizer.backend.encode("x", "x"), tokenizer.backend.encode("x", add_special_tokens=False)
    return len(pair) > 2 * len(single) + len(tokenizer.prefix) + len(tokenizer.suffix)


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], length: int) -> list[tuple[list[int], list[int | None], bool]]:
    """Return for each sentence its ids, at most `length`, with the template; the word index of each id (None for the template's ids); and
    whether it was truncated.

    Equals transformers' `is_split_into_words=True`, except that a word that gives no token (a symbol of a private font, in BERT's
    vocabulary) is read as the unknown token, if there is one, so that no word of a sentence is without a tag. If tokens include the space
    before a word (GPT-2's `Ġ`), every word gets a space, also the first, as with transformers' `add_prefix_space=True`: otherwise the
    words would run together.
    """
    if _runs_words_together(tokenizer):
        sentences = [[f" {word}" for word in words] for words in sentences]
    with tokenizer_errors():
        encode = partial(tokenizer.truncating(length).encode_batch, is_pretokenized=True)
        encodings = encode([list(words) for words in sentences])
        if tokenizer.unk_id is not None:
            unknown = tokenizer.backend.id_to_token(tokenizer.unk_id)
            for number, encoding in enumerate(encodings):
                read = {word for word in encoding.word_ids if word is not None}
                ends = max(read, default=-1) + 1 if encoding.overflowing else len(sentences[number])
                if len(read) < ends:
                    words = [word if place in read or place >= ends else unknown for place, word in enumerate(sentences[number])]
                    encodings[number] = encode([words])[0]
    return [(encoding.ids, encoding.word_ids, bool(encoding.overflowing)) for encoding in encodings]


def _runs_words_together(tokenizer: Tokenizer) -> bool:
    """Whether words given separately need a space before them, since the tokenizer does not separate them itself."""
    with tokenizer_errors():
        words = tokenizer.backend.encode(["x", "x"], is_pretokenized=True, add_special_tokens=False)
        return words.ids != tokenizer.backend.encode("x x", add_special_tokens=False).ids

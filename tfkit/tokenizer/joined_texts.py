"""Encoding of pairs of texts, of sentences that are lists of words, and of questions with their contexts, with the special tokens of the
tokenizer's template (its post-processor).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import tokenizers

from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], length: int | None = None
) -> list[tuple[list[int], list[int], bool]]:
    """Return for each pair its ids in the template for pairs, the segment (0 or 1) of each id, and whether the pair was truncated.

    `length`: the largest number of ids; the longer text loses its last ids until both fit, as in BERT's own fine-tuning. None: no limit.
    """
    backend = tokenizer.backend if length is None else tokenizer.truncating(length)
    with tokenizer_errors():
        encodings = backend.encode_batch_fast(list(pairs))
    return [(encoding.ids, encoding.type_ids, bool(encoding.overflowing)) for encoding in encodings]


def joins_pairs(tokenizer: Tokenizer) -> bool:
    """Whether the template for pairs puts a token between the two texts; the templates of GPT and GPT-2 do not."""
    with tokenizer_errors():
        pair, single = tokenizer.backend.encode("x", "x"), tokenizer.backend.encode("x", add_special_tokens=False)
    return len(pair) > 2 * len(single) + len(tokenizer.prefix) + len(tokenizer.suffix)


def encode_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], length: int) -> list[tuple[list[int], list[int | None], bool]]:
    """Return for each sentence its ids, at most `length` with those of the template; the index of each id's word (None for an id of the
    template); and whether the sentence was truncated.

    The ids are those of transformers' `is_split_into_words=True`, except that a word without tokens (such as a symbol of a private font,
    with BERT's tokenizer) becomes the unknown token, if there is one, so that each word gets a tag. If tokens include the space before a
    word (GPT-2's `Ġ`), every word, also the first, gets a space, as with transformers' `add_prefix_space=True`; without these spaces,
    the ids would be those of words that are not separated.
    """
    with tokenizer_errors():
        words_of_list = tokenizer.backend.encode(["x", "x"], is_pretokenized=True, add_special_tokens=False)
        if words_of_list.ids != tokenizer.backend.encode("x x", add_special_tokens=False).ids:
            sentences = [[f" {word}" for word in words] for words in sentences]
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


class Window(NamedTuple):
    """The ids of a question with a part of its context, in the template for pairs."""

    ids: list[int]
    segments: list[int]  # 0 or 1 for each id
    spans: list[tuple[int, int]]  # begin and end of each id in the context's text, without leading white space; (-1, -1): not in it
    question_tokens: int  # the number of ids of the question


class QuestionWindows(NamedTuple):
    """The windows of a question with its context, and whether the question was truncated."""

    windows: list[Window]
    truncated: bool


class WindowEncoder:
    """Encodes questions and contexts with the tokenizer's template for pairs. A long context is divided into overlapping windows, each of
    which is encoded with the question, as by transformers with `stride` and `only_second`.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, overlap: int):
        """`length`: the largest number of ids of a window. `overlap`: how many context ids two successive windows share, but at most half
        of those that fit into a window beside the question. Raises ValueError if `length` has no room for a question and a context.
        """
        special = len(encode_pairs(tokenizer, [("", "")])[0][0])
        self.length, self.overlap, self.room = length, overlap, length - special  # room: the most ids of question and context together
        if self.room < 4:
            raise ValueError(f"a length of {length} has no room for a question and its context")
        self._backend = tokenizer.copy_backend()  # a copy, since truncation is a setting of the whole backend

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[QuestionWindows]:
        """Return the windows of each question with its context. A question of more than half of `room` ids is
        truncated to this half, or to fewer ids, so that it ends with a whole character.
        """
        with tokenizer_errors():
            self._backend.no_truncation()
            questions = self._backend.encode_batch([question for question, _ in pairs], add_special_tokens=False)
            most = self.room // 2
            strides = [min(self.overlap, (self.room - min(len(encoding), most)) // 2) for encoding in questions]
            ends = [min(each.offsets[most - 1][1], each.offsets[most][0]) if len(each) > most else None for each in questions]
            truncated = [(question[:end], context) for end, (question, context) in zip(ends, pairs, strict=True)]
            windows: dict[int, list[Window]] = {}
            for stride in {*strides}:  # the stride is a setting of the whole backend, so pairs of one stride are encoded together
                indices = [i for i, own_stride in enumerate(strides) if own_stride == stride]
                self._backend.enable_truncation(self.length, stride=stride, strategy="only_second")
                encodings = self._backend.encode_batch([truncated[i] for i in indices])
                for i, first in zip(indices, encodings, strict=True):
                    windows[i] = [_window(encoding, pairs[i][1]) for encoding in (first, *first.overflowing)]
        return [QuestionWindows(windows[i], len(encoding) > most) for i, encoding in enumerate(questions)]


def _window(encoding: tokenizers.Encoding, context: str) -> Window:
    spans = [
        (end - len(context[start:end].lstrip()), end) if sequence == 1 else (-1, -1)
        for (start, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]
    return Window(encoding.ids, encoding.type_ids, spans, encoding.sequence_ids.count(0))

"""Encoding of questions with their contexts; a long context is divided into overlapping windows, each encoded with the question."""

from collections.abc import Sequence
from typing import NamedTuple

import tokenizers

from tfkit.tokenizer.joined_texts import encode_pairs
from tfkit.tokenizer.tokenizer import Tokenizer
from tfkit.tokenizer.tokenizer_guard import tokenizer_errors


class Window(NamedTuple):
    """The ids of one window, their segments, and the span of context characters that each id covers, (-1, -1) outside the context."""

    ids: list[int]
    segments: list[int]
    spans: list[tuple[int, int]]
    question_tokens: int


class QuestionWindows(NamedTuple):
    """The windows of a question, and whether the question was truncated."""

    windows: list[Window]
    truncated: bool


class WindowEncoder:
    """Encodes questions and contexts with the tokenizer's template for pairs, as transformers does with `stride` and `only_second`."""

    def __init__(self, tokenizer: Tokenizer, length: int, overlap: int):
        """Windows have at most `length` ids; successive windows share `overlap` ids of the context, at most half of the room for it.

        Raises ValueError for a length without room for both texts.
        """
        special = len(encode_pairs(tokenizer, [("", "")])[0][0])
        self.length, self.overlap, self.room = length, overlap, length - special  # room: ids of question and context
        if self.room < 4:
            raise ValueError(f"a length of {length} has no room for a question and its context")
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.tokenizer_json)  # a copy: truncation is a setting of the whole backend
        self._backend.no_padding()
        self._backend.encode_special_tokens = tokenizer.backend.encode_special_tokens

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[QuestionWindows]:
        """Return the windows of each question and its context; a question is truncated to half of the room."""
        with tokenizer_errors():
            self._backend.no_truncation()
            questions = self._backend.encode_batch([question for question, _ in pairs], add_special_tokens=False)
            most = self.room // 2
            strides = [min(self.overlap, (self.room - min(len(encoding), most)) // 2) for encoding in questions]
            truncated = [
                (question if len(encoding) <= most else question[: encoding.offsets[most - 1][1]], context)
                for encoding, (question, context) in zip(questions, pairs, strict=True)
            ]
            windows: dict[int, list[Window]] = {}
            for stride in {*strides}:  # the stride is a setting of the whole backend
                indices = [i for i, own_stride in enumerate(strides) if own_stride == stride]
                self._backend.enable_truncation(self.length, stride=stride, strategy="only_second")
                encodings = self._backend.encode_batch([truncated[i] for i in indices])
                for i, first in zip(indices, encodings, strict=True):
                    windows[i] = [_window(encoding, pairs[i][1]) for encoding in (first, *first.overflowing)]
        return [QuestionWindows(windows[i], len(encoding) > most) for i, encoding in enumerate(questions)]


def _window(encoding: tokenizers.Encoding, context: str) -> Window:
    spans = [
        (_skip_space(context, *span), span[1]) if sequence == 1 else (-1, -1)
        for span, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]
    return Window(encoding.ids, encoding.type_ids, spans, encoding.sequence_ids.count(0))


def _skip_space(text: str, start: int, end: int) -> int:
    """Return the start of a token's text without the leading space that some tokenizers include."""
    while start < end and text[start].isspace():
        start += 1
    return start

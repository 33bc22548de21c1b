"""Questions with their contexts as ids: a context that is too long is read in overlapping windows, each behind the question."""

from collections.abc import Sequence
from typing import NamedTuple

import tokenizers

from tfkit.tokenizer.broken import broken_tokenizer
from tfkit.tokenizer.joined_texts import encode_pairs
from tfkit.tokenizer.tokenizer import Tokenizer


class Window(NamedTuple):
    """The ids of one window, their segments, and the characters of the context that each id covers: (-1, -1) outside of the context."""

    ids: list[int]
    segments: list[int]
    spans: list[tuple[int, int]]
    question_tokens: int


class QuestionWindows(NamedTuple):
    """The windows of a question, and whether the question was cut."""

    windows: list[Window]
    truncated: bool


class WindowEncoder:
    """Encodes questions and contexts by the tokenizer's own template for pairs, as transformers does with `stride` and `only_second`."""

    def __init__(self, tokenizer: Tokenizer, length: int, overlap: int):
        """Windows of at most `length` ids, of which two in succession share `overlap` of the context, but at most half of their room.

        Raises ValueError for a length without room for both texts.
        """
        around = len(encode_pairs(tokenizer, [("", "")])[0][0])
        self.length, self.overlap, self.room = length, overlap, length - around  # room: for question and context
        if self.room < 4:
            raise ValueError(f"a length of {length} has no room for a question and its context")
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.tokenizer_json)  # a copy: truncation is a setting of the whole backend
        self._backend.no_padding()
        self._backend.encode_special_tokens = tokenizer.backend.encode_special_tokens

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[QuestionWindows]:
        """Return the windows of each question and context; a question keeps at most half of the room."""
        with broken_tokenizer():
            self._backend.no_truncation()
            asked = self._backend.encode_batch([question for question, _ in pairs], add_special_tokens=False)
            most = self.room // 2
            strides = [min(self.overlap, (self.room - min(len(one), most)) // 2) for one in asked]
            cut = [
                (question if len(one) <= most else question[: one.offsets[most - 1][1]], context)
                for one, (question, context) in zip(asked, pairs, strict=True)
            ]
            found: dict[int, list[Window]] = {}
            for stride in {*strides}:
                mine = [number for number, own in enumerate(strides) if own == stride]
                self._backend.enable_truncation(self.length, stride=stride, strategy="only_second")
                encoded = self._backend.encode_batch([cut[number] for number in mine])
                for number, one in zip(mine, encoded, strict=True):
                    found[number] = [_window(part, pairs[number][1]) for part in (one, *one.overflowing)]
        return [QuestionWindows(found[number], len(one) > most) for number, one in enumerate(asked)]


def _window(encoding: tokenizers.Encoding, context: str) -> Window:
    spans = [
        (_without_space(context, *span), span[1]) if of == 1 else (-1, -1)
        for span, of in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]
    return Window(encoding.ids, encoding.type_ids, spans, encoding.sequence_ids.count(0))


def _without_space(text: str, start: int, end: int) -> int:
    """Return where a token's text begins: that of some tokenizers has the space before it."""
    while start < end and text[start].isspace():
        start += 1
    return start

"""Decoding of ids to text during generation, id by id: each part ends with a whole character, and the text before a stop string."""

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[list[int]], str]

_REPLACEMENT = "\ufffd"  # the character that decoders return for bytes that are not (yet) a whole character
_WINDOW = 32  # the largest number of earlier ids that are decoded again with each new id, except within a character or a run of byte tokens
_CONTEXT = 8  # the number of earlier ids decoded together with new ids, as context; more if they have no text, or begin inside a character


class TextStream:
    """The text of one continuation, decoded id by id.

    The ids are decoded together with `context`, the end of the prompt (`context_of`), because some decoders (SentencePiece's) drop the
    space at the beginning of a text. Text is held back while its last bytes are an incomplete character, and while it may be the beginning
    of a stop string. `byte_ids`: the ids of tokens that are single bytes. If one byte of a sequence of such tokens is invalid, a decoder
    turns the whole sequence into replacement characters; so the text of a sequence is final only when the sequence has ended, unless it
    completes a stop string, which is recognised immediately.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = (), stop: Sequence[str] = (), byte_ids: Collection[int] = ()):
        self.text = ""  # all text returned so far
        self.stopped = False  # whether a stop string ended the text
        self._decode = decode
        self._stop = [string for string in stop if string]
        self._byte_ids = byte_ids
        self._held = ""  # complete characters that may be the beginning of a stop string
        self._read = 0  # how many characters of `_window_text()` are not new: those of its context, and those returned or held
        self._begin_window(context)

    def push(self, token: int) -> str:
        """Add an id; return the text that has become final, possibly empty."""
        if self.stopped or not self._decode([token, token]):  # the text has ended; or a special token, which decoding skips
            return ""
        self._window.append(token)
        text = self._window_text()
        whole = text.rstrip(_REPLACEMENT)
        new = whole[self._read :]
        if token in self._byte_ids and not any(string in self._held + new for string in self._stop):
            return ""
        self._read = max(self._read, len(whole))
        if len(whole) == len(text) and len(self._window) > _WINDOW:
            self._begin_window(context_of(self._decode, self._window))
        return self._give(new)

    def close(self) -> str:
        """Return the text still held back, none after a stop string; an incomplete character becomes one or more replacement characters."""
        if self.stopped:
            return ""
        rest = self._give(self._window_text()[self._read :])
        if not self.stopped:
            rest += self._held
            self.text += self._held
        self._held = ""
        return rest

    def _begin_window(self, context: Sequence[int]) -> None:
        self._window = list(context)
        self._before = _text_of(self._decode, context)
        self._read = len(self._before)
        self._context_length = len(self._window)

    def _window_text(self) -> str:
        return _decode_after(self._decode, self._window[: self._context_length], self._before, self._window[self._context_length :])

    def _give(self, new: str) -> str:
        pending = self._held + new
        stops = [start for start in (pending.find(string) for string in self._stop) if start >= 0]
        if stops:
            self.stopped, self._held, final = True, "", pending[: min(stops)]
        else:
            # The length of the longest suffix of `pending` that is a prefix of a stop string.
            overlap = max((n for string in self._stop for n in range(1, len(string)) if pending.endswith(string[:n])), default=0)
            final = pending[: len(pending) - overlap]
            self._held = pending[len(final) :]
        self.text += final
        return final


def context_of(decode: Decode, ids: Sequence[int]) -> list[int]:
    """Return a suffix of `ids` that is enough context: ids that follow are decoded to the same text as after all of `ids`. The suffix has
    text and begins with a whole character, or is all of `ids`.
    """
    length = _CONTEXT
    while length < len(ids):
        context = list(ids[-length:])
        text = decode(context)
        if text and not text.startswith(_REPLACEMENT):
            return context
        length *= 2
    return list(ids)


def text_after(decode: Decode, context: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of `ids` after `context` (see `context_of`). An incomplete character becomes one or more replacement characters."""
    before = _text_of(decode, context)
    return _decode_after(decode, context, before, ids)[len(before) :]


def complete_text_after(decode: Decode, context: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of a continuation as `text_after` returns it, but only up to its last complete character."""
    return text_after(decode, context, ids).rstrip(_REPLACEMENT)


def _decode_after(decode: Decode, context: Sequence[int], before: str, ids: Sequence[int]) -> str:
    """Return the text of context and ids together; `before`: the text of the context."""
    text = _text_of(decode, [*context, *ids])
    if text.startswith(before):
        return text
    return before + decode(list(ids))  # the ids begin with an invalid byte, so the decoder has changed the text of the context before it


def _text_of(decode: Decode, ids: Sequence[int]) -> str:
    return decode(list(ids)) if ids else ""

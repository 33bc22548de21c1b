"""From ids to text while they are being made: never half a character, never text beyond a stop string."""

from collections.abc import Callable, Collection, Sequence

Decode = Callable[[list[int]], str]

_REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not, or not yet, a character
_WINDOW = 32  # ids that are decoded again with each new one
_CONTEXT = 8  # ids that are decoded before a text; more where these give no text, or begin inside a character


class TextStream:
    """The text of one continuation, id by id.

    The ids are decoded behind `context`, the end of the prompt (`context_of`), and not on their own, since some decoders (SentencePiece's)
    drop the space that begins a text. Text is held back while its last bytes are no whole character, and while it may be the beginning of
    a stop string. `byte_ids`: the tokens of single bytes. A decoder turns a whole row of them into replacement characters if one byte is
    wrong, so their text is certain only when the row has ended; but a stop string in it ends the text at once.
    """

    def __init__(self, decode: Decode, context: Sequence[int] = (), stop: Sequence[str] = (), byte_ids: Collection[int] = ()):
        self.text = ""  # all that was given out
        self.stopped = False  # a stop string came; nothing follows
        self._decode = decode
        self._stop = [string for string in stop if string]
        self._byte_ids = byte_ids
        self._held = ""  # whole characters that may begin a stop string
        self._read = 0  # characters of the window's text that were taken
        self._begin_window(context)

    def push(self, token: int) -> str:
        """The text that this id makes certain; often empty."""
        if self.stopped or not self._decode([token, token]):  # a special token, which decoding leaves out
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
        """The text that was held back, with replacement characters for bytes that never became whole."""
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
        self._behind = len(self._window)

    def _window_text(self) -> str:
        return _decode_behind(self._decode, self._window[: self._behind], self._before, self._window[self._behind :])

    def _give(self, new: str) -> str:
        pending = self._held + new
        found = [at for at in (pending.find(string) for string in self._stop) if at >= 0]
        if found:
            self.stopped, self._held, certain = True, "", pending[: min(found)]
        else:
            certain = pending[: len(pending) - self._overlap(pending)]
            self._held = pending[len(certain) :]
        self.text += certain
        return certain

    def _overlap(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        return max((n for string in self._stop for n in range(1, len(string)) if text.endswith(string[:n])), default=0)


def context_of(decode: Decode, ids: Sequence[int]) -> list[int]:
    """The end of these ids behind which others are decoded as behind all of them: it gives some text, and begins with a whole character."""
    length = _CONTEXT
    while length < len(ids):
        context = list(ids[-length:])
        text = decode(context)
        if text and not text.startswith(_REPLACEMENT):
            return context
        length *= 2
    return list(ids)


def text_behind(decode: Decode, context: Sequence[int], ids: Sequence[int]) -> str:
    """The text of a whole continuation at once behind a `context_of` its prompt, as far as its last character is whole."""
    before = _text_of(decode, context)
    return _decode_behind(decode, context, before, ids).rstrip(_REPLACEMENT)[len(before) :]


def _decode_behind(decode: Decode, context: Sequence[int], before: str, ids: Sequence[int]) -> str:
    """The text of both together, of which that of the context is `before`."""
    text = _text_of(decode, [*context, *ids])
    if text.startswith(before):
        return text
    return before + decode(list(ids))  # ids that begin with a wrong byte, which would change the characters before it, too


def _text_of(decode: Decode, ids: Sequence[int]) -> str:
    return decode(list(ids)) if ids else ""

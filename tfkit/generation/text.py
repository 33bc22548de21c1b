"""From ids to text while they are being made: never half a character, never text beyond a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not, or not yet, a character
_WINDOW = 32  # ids that are decoded again with each new one; enough for any decoder's view to the left
_CONTEXT = 8


class TextStream:
    """The text of one continuation, id by id.

    The ids are decoded behind the end of the prompt and not on their own, since some decoders (SentencePiece's) drop the space that
    begins a text. Text is held back while its last bytes are no whole character, and while it may be the beginning of a stop string.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt_ids: Sequence[int] = (), stop: Sequence[str] = ()):
        self.text = ""  # all that was given out
        self.stopped = False  # a stop string came; nothing follows
        self._decode = decode
        self._stop = [string for string in stop if string]
        self._window = _end_of(prompt_ids)
        self._read = len(decode(self._window)) if self._window else 0  # characters of the window's text that were taken
        self._held = ""  # whole characters that may begin a stop string

    def push(self, token: int) -> str:
        """The text that this id makes certain; often empty."""
        if self.stopped:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(_REPLACEMENT)
        new = whole[self._read :]
        self._read = max(self._read, len(whole))
        if len(whole) == len(text):
            self._shorten()
        return self._give(new)

    def close(self) -> str:
        """The text that was held back, with replacement characters for bytes that never became whole."""
        if self.stopped:
            return ""
        rest = self._give(self._decode(self._window)[self._read :]) if self._window else ""
        if not self.stopped:
            rest += self._held
            self.text += self._held
        self._held = ""
        return rest

    def _shorten(self) -> None:
        """Forget old ids, unless the window would then begin in the middle of a character."""
        if len(self._window) > _WINDOW:
            window = self._window[-_CONTEXT:]
            text = self._decode(window)
            if not text.startswith(_REPLACEMENT):
                self._window, self._read = window, len(text)

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


def text_behind(decode: Callable[[list[int]], str], prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
    """The text of a whole continuation at once, as far as its last character is whole."""
    before = _end_of(prompt_ids)
    return decode([*before, *ids]).rstrip(_REPLACEMENT)[len(decode(before)) if before else 0 :]


def _end_of(ids: Sequence[int]) -> list[int]:
    return list(ids[-_CONTEXT:])

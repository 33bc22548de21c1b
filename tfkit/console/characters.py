"""Convert text to what a stream or a terminal can show: measure its width in columns, cut and wrap lines, and escape characters."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing import IO

_ASCII = str.maketrans(
    dict(
        zip(
            "–—−‐‘’‚“”„·•×µμ≤≥≈±…→←═━─│░▒▓█",
            ["-"] * 4 + ["'"] * 3 + ['"'] * 3 + list("**xuu") + ["<=", ">=", "~", "+-", "...", "->", "<-", *"==-|:+%#"],
            strict=True,
        )
    )
    | {"₂": "2", "\xa0": " ", "°": " deg"}
)

# The characters that control a terminal: C0, DEL, C1, and those that override the writing direction of the text around them.
OBEYED = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in OBEYED}
_ESCAPES_IN_TEXT = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def escaped(text: str) -> str:
    """Return the text with escape sequences in place of the characters that control a terminal, except line breaks and tabs."""
    return text.translate(_ESCAPES_IN_TEXT)


def escaped_line(text: str) -> str:
    """Return a text, such as a name, as one line: like `escaped`, but with line breaks and tabs escaped, too."""
    return text.translate(_ESCAPES)


def ascii_only(text: str) -> str:
    """Return the text in ASCII: dashes, quotes, arrows and bars in their closest form, and other characters as escape sequences."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def supports_unicode(stream: "IO[str] | TextIO | None") -> bool:
    """Return whether the stream and the locale support every character. The C locale does not, although Python uses UTF-8 in it."""
    locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "C")
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return locale not in ("C", "POSIX") and encoding in ("utf8", "utf16", "utf32")


def is_terminal(stream: "TextIO | None") -> bool:
    """Return whether a stream is a terminal on which a line can be redrawn."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns_of(text: str) -> int:
    """Return the width of a text on a terminal, in columns: some characters take two columns, and control characters none."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """Return the longest beginning of a text that fits into `columns` columns of a terminal; "" if there is no room."""
    fitting = bisect_right(range(len(text) + 1), columns, key=lambda end: columns_of(text[:end])) - 1
    return text[: max(0, fitting)]


def fitted(text: str, columns: int) -> str:
    """Return a text, cut or padded with spaces to exactly `columns` columns of a terminal."""
    text = cut(text, columns)
    return text + " " * (columns - columns_of(text))


def wrap(words: Iterable[str], width: int) -> Iterator[str]:
    """Yield the words as lines of at most `width` columns; a longer word gets a line of its own."""
    line = ""
    for word in words:
        if line and columns_of(line) + 1 + columns_of(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def fit(parts: list[str], width: int, fraction: float | None = None, *, unicode: bool = True) -> str:
    """Return a line of at most `width` characters: as many of the parts, from the first on, as fit. If none fits, the first one is cut.

    If all parts fit and leave room for two spaces and ten characters, the line ends with a progress bar for `fraction` (None: no bar).
    If `unicode` is False, the line has only ASCII characters.
    """
    parts = parts if unicode else [ascii_only(part) for part in parts]
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    else:
        room = min(width - len(line) - 2, 30)
        if fraction is not None and room >= 10:
            done = round(room * min(max(fraction, 0.0), 1.0))
            full, empty = ("━", "─") if unicode else ("#", "-")
            line += "  " + full * done + empty * (room - done)
    return line or parts[0][: max(width, 0)] if parts else ""

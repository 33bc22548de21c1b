"""Text as a stream or a terminal can show it: its width, a line that fits, and ASCII where nothing else is supported."""

import os
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

# The characters that a terminal obeys: C0, DEL, C1, and those that override the writing direction of the text around them.
OBEYED = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in OBEYED}
_ESCAPES_IN_TEXT = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def escaped(text: str) -> str:
    """Return the text with an escape sequence in place of every character that a terminal would obey, except line breaks and tabs."""
    return text.translate(_ESCAPES_IN_TEXT)


def escaped_line(text: str) -> str:
    """Return the text, such as a name, on one line: like `escaped`, but with line breaks and tabs escaped, too."""
    return text.translate(_ESCAPES)


def ascii_only(text: str) -> str:
    """Return the text in ASCII: dashes, quotes and arrows as on a keyboard, any other character as an escape sequence."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def supports_unicode(stream: "IO[str] | TextIO | None") -> bool:
    """Return whether the stream and the locale support every character. The encoding alone does not show it: Python's is UTF-8 even in the
    C locale.
    """
    if os.name == "posix":
        locale = next((value for name in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(name))), "C")
        if locale in ("C", "POSIX"):
            return False
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def is_terminal(stream: "TextIO | None") -> bool:
    """Return whether a stream is a terminal on which a line can be redrawn."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def columns_of(text: str) -> int:
    """Return the width of a text on a terminal, in columns: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """Return a text, cut after this many columns."""
    while columns_of(text) > columns:
        text = text[:-1]
    return text


def fitted(text: str, columns: int) -> str:
    """Return a text cut or padded to exactly this many columns."""
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
    """Join as many parts, from the first on, as fit into a line of `width` characters. If none fits, the first is cut.

    If all fit and at least ten columns are free, the line ends with a bar for `fraction`.
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

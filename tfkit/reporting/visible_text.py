"""Untrusted text made safe to display: without control characters, characters that change the text direction, or paths."""

import re
import unicodedata

from tfkit.run.card_facts import last_name

# A path begins a word or follows a quote, an equals sign or a bracket; URLs and fractions such as 3/4 are not paths. A relative path must
# end with a suffix that begins with a letter, since `org/name` may be a repository of the Hub.
_PATH = re.compile(
    r"(?<![\w/:.~\\-])(?:~[\w-]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|/(?=[^\s/]))[^\s\"'`,;:)\]}<>|]*|(?<![\w/:.~\\-])(?:[\w.-]+/)+[\w-]+\.[A-Za-z]\w{0,7}\b"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Replace control and formatting characters (escapes, RTL overrides, lone surrogates) by codes such as \\u202e.

    With `lines`, line breaks and tabs are kept; otherwise they become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character, lines) for character in text)


def _visible(character: str, lines: bool) -> str:
    if character in "\n\t":
        return character if lines else " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character != "\u200d":  # the joiner in emoji
        return f"\\u{ord(character):04x}" if ord(character) > 0xFF else f"\\x{ord(character):02x}"
    return character


def shareable(text: str, *, full: bool) -> str:
    """Return a text; unless `full`, its paths are shortened to their last names: `x: no such folder` for `/home/ada/x: no such folder`."""
    return text if full else _PATH.sub(lambda match: last_name(match[0]), text)

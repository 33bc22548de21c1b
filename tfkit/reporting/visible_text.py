"""Texts from anywhere, made safe to show: no control characters, no characters that turn the direction of what follows, no places."""

import re
import unicodedata

from tfkit.run.card_facts import last_name

_KEPT = {"\n", "\t"}
# A path begins a word or follows a quote, an equals sign or a bracket; a URL is none, and nor is a fraction such as 3/4. A relative path
# is one only where its last name has an ending that begins with a letter: `org/name` may be of the Hub.
_PLACE = re.compile(
    r"(?<![\w/:.~\\-])(?:~[\w-]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|/(?=[^\s/]))[^\s\"'`,;:)\]}<>|]*|(?<![\w/:.~\\-])(?:[\w.-]+/)+[\w-]+\.[A-Za-z]\w{0,7}\b"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text with its control and formatting characters (escapes, RTL overrides, lone surrogates) as codes such as \\u202e.

    Line breaks and tabs stay with `lines`, and are spaces without.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(one, lines) for one in text)


def _shown(character: str, lines: bool) -> str:
    if character in _KEPT:
        return character if lines else " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character != "\u200d":  # which joins emoji
        return f"\\u{ord(character):04x}" if ord(character) > 0xFF else f"\\x{ord(character):02x}"
    return character


def without_places(text: str) -> str:
    """Return a text with each path shortened to its last name: `/home/ada/runs/x: no such folder` is `x: no such folder`."""
    return _PLACE.sub(lambda found: last_name(found[0]), text)

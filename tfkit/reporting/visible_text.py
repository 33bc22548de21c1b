"""Make untrusted text safe to show: escape control characters and changes of the text direction, and remove the folders of paths."""

import re
import unicodedata

from tfkit.run.card_facts import last_name

# Paths at the beginning of a word, or after a quote, an equals sign or a bracket. URLs, and fractions such as 3/4, do not match. A
# path such as `org/name` may be a repository of the Hub, so it matches only with a file extension that begins with a letter.
_PATH = re.compile(
    r"(?<![\w/:.~\\-])(?:~[\w-]*[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|/(?=[^\s/]))[^\s\"'`,;:)\]}<>|]*|(?<![\w/:.~\\-])(?:[\w.-]+/)+[\w-]+\.[A-Za-z]\w{0,7}\b"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Replace control and formatting characters (escapes, RTL overrides, lone surrogates) by codes such as \\u202e.

    Line breaks and tabs are kept if `lines` is set; otherwise each becomes a space.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character, lines) for character in text)


def _visible(character: str, lines: bool) -> str:
    if character in "\n\t":
        return character if lines else " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character != "\u200d":  # U+200D joins emoji, and is kept
        return f"\\u{ord(character):04x}" if ord(character) > 0xFF else f"\\x{ord(character):02x}"
    return character


def shareable(text: str, *, full: bool) -> str:
    """Return a text, if `full` as it is, else with each path replaced by its last part: `/home/ada/x: missing` becomes `x: missing`."""
    return text if full else _PATH.sub(lambda match: last_name(match[0]), text)

"""The names that tags mark: B-person begins a name, I-person continues it, O is outside (Ramshaw and Marcus 1995; CoNLL-2003).

Also IOE, where E- ends a name, and IOBES, where S- is a whole name. Invalid sequences are read as in seqeval's default mode.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A name of a `kind`: the words from `start` to before `end`."""

    start: int
    end: int
    kind: str


def mark_spans(tags: Sequence[str]) -> bool:
    """Whether the tags mark spans, instead of classifying single words."""
    return any(tag.startswith(("B-", "I-", "E-", "S-")) for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans of a sentence, as CoNLL's conlleval does: an I- without a span of its kind to continue begins a span."""
    marked: set[Span] = set()
    start, last, last_kind = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(last, letter) or (last not in ("O", ".") and kind != last_kind):
            marked.add(Span(start, place, last_kind))
        if _begins(last, letter) or (letter not in ("O", ".") and kind != last_kind):
            start = place
        last, last_kind = letter, kind
    return marked


def _ends(last: str, letter: str) -> bool:
    """Whether a span ends between two words whose tags begin with these letters."""
    return last in ("E", "S") or (last in ("B", "I") and letter in ("B", "S", "O"))


def _begins(last: str, letter: str) -> bool:
    """Whether a span begins between them."""
    return letter in ("B", "S") or (last in ("E", "S", "O") and letter in ("E", "I"))

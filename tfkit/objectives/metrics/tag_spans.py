"""The names that tags mark: B-person begins one, I-person continues it, O is outside (Ramshaw and Marcus 1995; CoNLL-2003's measure).

Also IOE, where E- ends a name, and IOBES, where S- is a whole one. Read as seqeval does in its default mode, whatever is broken.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Words from `start` to before `end` that are a `kind`."""

    start: int
    end: int
    kind: str


def mark_spans(tags: Sequence[str]) -> bool:
    """Whether tags like these mark spans, rather than say what each word is."""
    return any(tag.startswith(("B-", "I-", "E-", "S-")) for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a sentence, as CoNLL's conlleval reads them: an I- that has nothing of its kind to continue begins a span, too."""
    found: set[Span] = set()
    start, last, last_kind = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, kind = tag[:1], tag[1:].split("-", maxsplit=1)[-1] or "_"
        if _ends(last, letter) or (last not in ("O", ".") and kind != last_kind):
            found.add(Span(start, place, last_kind))
        if _begins(last, letter) or (letter not in ("O", ".") and kind != last_kind):
            start = place
        last, last_kind = letter, kind
    return found


def _ends(last: str, letter: str) -> bool:
    """Whether a span ends between two words with tags that begin with these letters."""
    return last in ("E", "S") or (last in ("B", "I") and letter in ("B", "S", "O"))


def _begins(last: str, letter: str) -> bool:
    """Whether a span begins there."""
    return letter in ("B", "S") or (last in ("E", "S", "O") and letter in ("E", "I"))

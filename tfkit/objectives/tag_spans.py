"""The names that tags mark: B-person begins one, I-person goes on with it, O is outside (Ramshaw and Marcus 1995; CoNLL-2003's measure)."""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Words from `start` to before `end` that are a `kind`."""

    start: int
    end: int
    kind: str


def mark_spans(tags: Sequence[str]) -> bool:
    """Whether tags like these mark spans, rather than say what each word is."""
    return any(tag.startswith(("B-", "I-")) for tag in tags)


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a sentence, as CoNLL's conlleval reads them: an I- that has nothing of its kind to go on with begins a span, too."""
    found: set[Span] = set()
    start, kind = 0, ""  # of the span that is open
    for place, tag in enumerate([*tags, "O"]):
        begins, dash, own = tag.partition("-")
        inside = own if dash and begins in ("B", "I") else ""
        if kind and (inside != kind or begins == "B"):
            found.add(Span(start, place, kind))
            kind = ""
        if inside and not kind:
            start, kind = place, inside
    return found

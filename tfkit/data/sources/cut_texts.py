"""Few whole texts, split by position: the last part of each is held out, from the beginning of a paragraph or line."""

import re

from tfkit.data.columns.rows import Part, Row

MOST_CUT = 100  # files: among more the hash hardly leaves a part empty
# Where a text may be cut, from the best place to the worst: before a paragraph, a line, a sentence, a word.
_PLACES = (re.compile(r"\n[ \t\r]*\n\s*"), re.compile(r"\n+"), re.compile(r"[.!?]\s+"), re.compile(r"\s+"))
_NEAR = 0.25  # of the held-out part: how far from its fraction it may begin


def cut(row: Row, part: Part) -> Row | None:
    """Return the part of a row that is one text, with its first line in its place; None if it is empty."""
    assert part.fraction is not None, "only a fraction is cut off"
    at = _place(row.text, part.fraction)
    text = row.text[at:] if part.name == "held_out" else row.text[:at]
    place = f"{row.place}:{row.text.count(chr(10), 0, at) + 1}" if part.name == "held_out" else row.place
    return row._replace(text=text, place=place, values={**row.values, "text": text} if row.values else row.values) if text else None


def describe_cut(part: Part) -> str:
    """Describe the part in words."""
    assert part.fraction is not None, "only a fraction is cut off"
    return f"{'' if part.name == 'held_out' else 'all but '}the last {part.fraction:.2%} of the text"


def _place(text: str, fraction: float) -> int:
    """Return where the held-out part begins: near `fraction` of the characters from the end."""
    wanted, reach = round(len(text) * (1 - fraction)), max(1, round(len(text) * fraction * _NEAR))
    for place in _PLACES:
        ends = [match.end() for match in place.finditer(text, max(0, wanted - reach), min(len(text), wanted + reach))]
        if ends:
            return min(ends, key=lambda end: abs(end - wanted))
    return wanted

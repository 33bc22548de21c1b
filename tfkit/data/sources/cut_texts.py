"""The parts of a single text: the held-out one is its end, from the beginning of a paragraph, or else of a line, a sentence or a word."""

import re

from tfkit.data.columns.rows import Part, Row

# Where a text may be cut, in order of preference: before a paragraph, a line, a sentence, a word.
_BREAKS = (re.compile(r"\n[ \t\r]*\n\s*"), re.compile(r"\n+"), re.compile(r"[.!?]\s+"), re.compile(r"\s+"))
_TOLERANCE = 0.25  # the distance that the cut may have from the exact fraction, relative to the held-out part


def cut_text(row: Row, part: Part) -> Row | None:
    """Return a part of a row that is one text; None if it is empty. The place of a held-out part includes its first line."""
    assert part.fraction is not None, "only a fraction is cut off"
    position = _find_cut(row.text, part.fraction)
    text = row.text[position:] if part.name == "held_out" else row.text[:position]
    place = f"{row.place}:{row.text.count(chr(10), 0, position) + 1}" if part.name == "held_out" else row.place
    return row._replace(text=text, place=place, values={**row.values, "text": text} if row.values else row.values) if text else None


def describe_cut(part: Part) -> str:
    """Describe a part of the text."""
    assert part.fraction is not None, "only a fraction is cut off"
    return f"{'' if part.name == 'held_out' else 'all but '}the last {part.fraction:.2%} of the text"


def _find_cut(text: str, fraction: float) -> int:
    """Return the position at which the held-out part begins, near `fraction` of the characters before the end."""
    exact, tolerance = round(len(text) * (1 - fraction)), max(1, round(len(text) * fraction * _TOLERANCE))
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, max(0, exact - tolerance), min(len(text), exact + tolerance))]
        if ends:
            return min(ends, key=lambda end: abs(end - exact))
    return exact

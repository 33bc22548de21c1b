"""Rows made from other rows: labelled completions joined by their prompt, a random sample of rows, and the parts of a single text."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from heapq import nsmallest
from typing import TypeVar

from tfkit.data.columns.preference_forms import is_whole, read_flag
from tfkit.data.columns.rows import Part, Row, Skipped, Source, hash_fraction

UNPAIRED = "unpaired"  # the name of the group of roles (`Role.shape`) that a row with one labelled completion has
COMPLETIONS = 8  # the approximate number of completions in a joined row, if the prompt has more
_VERSION = 2  # part of the fingerprint of joined rows: raise it when the same rows are joined in another way
# Where a text may be cut, in order of preference: before a paragraph, a line, a sentence, a word.
_BREAKS = (re.compile(r"\n[ \t\r]*\n\s*"), re.compile(r"\n+"), re.compile(r"[.!?]\s+"), re.compile(r"\s+"))
_TOLERANCE = 0.25  # the largest distance of the cut from the exact fraction, relative to the length of the held-out part

One = TypeVar("One")


@dataclass(frozen=True)
class DerivedRows:
    """A source whose rows are made from those of another source, by `derive`. `rule` names this function in the fingerprint, `note` in the
    description.
    """

    source: Source
    derive: Callable[[Iterator[Row]], Iterator[Row]]
    rule: str
    note: str = ""

    @property
    def name(self) -> str:
        """The name of `source`."""
        return self.source.name

    @property
    def size_bytes(self) -> int | None:
        """The bytes of `source`; None if only a sample of its rows is used."""
        return None if self.note else self.source.size_bytes

    def describe(self) -> str:
        """Return the description of `source`, followed by `note`."""
        return f"{self.source.describe()}{self.note}"

    def fingerprint(self) -> str:
        """Return the fingerprint of `source`, followed by `rule`."""
        return f"{self.source.fingerprint()}\0{self.rule}"

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield the derived rows. Raises DataError as `source` does, even for a bad row that is not used."""
        return self.derive(self.source.rows(skipped))


def joined_rows(source: Source) -> DerivedRows:
    """Return a source whose rows with a `completion` and a `label` are joined by their prompt into rows with `completions` and
    `labels`, as for KTO's unpaired preferences (arXiv 2402.01306).

    A prompt with many completions gives several rows of about eight, each with good and bad completions if there are both, since only
    completions of one row are compared: with one good and 200 bad completions, the good one is in each row. Joined rows are in the order in
    which their prompts first occur. All rows are read before the first joined row is yielded, since a prompt may recur at the end of a
    file; rows without a `completion` are yielded unchanged, as soon as they are read.
    """
    return DerivedRows(source, _joined, f"joined {_VERSION}")


def _joined(rows: Iterator[Row]) -> Iterator[Row]:
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        if "completion" not in row.values:
            yield row
            continue
        split = split_prompt(row)
        prompt = json.dumps(split.values.get("prompt", ""), default=str)  # a message may have dates among its fields
        by_prompt.setdefault(prompt, []).append(split)
    for group in by_prompt.values():
        yield from map(_join, _divide(group))


def split_prompt(row: Row) -> Row:
    """Return the row; if its completion is a whole conversation, its last message becomes the completion, and the rest the prompt."""
    messages = row.values["completion"]
    if not isinstance(messages, list) or not is_whole(messages):
        return row
    return row._replace(values={**row.values, "prompt": messages[:-1], "completion": messages[-1:]})


def _divide(rows: list[Row]) -> list[list[Row]]:
    """Divide the rows of a prompt into groups of about COMPLETIONS rows, each with at least one good and one bad row.

    If there are fewer good (or bad) rows than groups, each group gets one of these few, in turn. If all rows are good, all are bad, or
    a label is neither, they are one group.
    """
    flags = [read_flag(str(row.values["label"])) for row in rows]
    kinds = [[row for row, flag in zip(rows, flags, strict=True) if flag is is_good] for is_good in (True, False)]
    rarer, other = sorted(map(len, kinds))
    count = -(-len(rows) // COMPLETIONS)
    if count < 2 or not rarer or None in flags:
        return [rows]
    if count > rarer:
        count = -(-other // (COMPLETIONS - 1))
    return [[row for kind in kinds for row in kind[number::count] or [kind[number % len(kind)]]] for number in range(count)]


def _join(rows: list[Row]) -> Row:
    first, names = rows[0], ("completion", "label")
    values = {name: value for name, value in first.values.items() if name not in names}
    values |= {f"{name}s": [row.values[name] for row in rows] for name in names}
    return first._replace(text="\n".join(row.text for row in rows), key="\n".join(row.key for row in rows), values=values)


def drawn_rows(source: Source, count: int, seed: int) -> DerivedRows:
    """Return a source with `count` random rows of `source`, or all if it has fewer, in the order of `source`. Rows are read as a stream."""
    drawn = cache(lambda: draw(source.rows({}), count, seed))
    note = f"; at most {count:,} of these rows, drawn by the seed {seed}"
    return DerivedRows(source, lambda rows: select(rows, drawn()), f"drawn {count} {seed}", note)


def draw(rows: Iterable[object], count: int, seed: int) -> frozenset[int]:
    """Return the indices, from 0, of `count` rows that the seed draws; if there are fewer rows, all indices."""
    return frozenset(place for _, place in nsmallest(count, ((hash_fraction(f"{seed}\0{n}".encode()), n) for n, _ in enumerate(rows))))


def select(rows: Iterable[One], drawn: frozenset[int]) -> Iterator[One]:
    """Yield the rows whose indices, from 0, are in `drawn`."""
    return (row for place, row in enumerate(rows) if place in drawn)


def cut_text(row: Row, part: Part) -> Row | None:
    """Return a row with only the training or held-out part of its text; None if that part is empty. The held-out part is the end of the
    text, from the beginning of a paragraph, or else of a line, a sentence or a word; the number of its first line is added to the place.
    """
    assert part.fraction is not None, "only a fraction is cut off"
    position = _find_cut(row.text, part.fraction)
    text = row.text[position:] if part.name == "held_out" else row.text[:position]
    place = f"{row.place}:{row.text.count(chr(10), 0, position) + 1}" if part.name == "held_out" else row.place
    return row._replace(text=text, place=place, values={**row.values, "text": text} if row.values else row.values) if text else None


def describe_cut(part: Part) -> str:
    """Return a description of a part of a single text: `the last 10.00% of the text`, or `all but the last 10.00% of the text`."""
    assert part.fraction is not None, "only a fraction is cut off"
    return f"{'' if part.name == 'held_out' else 'all but '}the last {part.fraction:.2%} of the text"


def _find_cut(text: str, fraction: float) -> int:
    """Return the position at which the held-out part, about `fraction` of the characters, begins."""
    exact, tolerance = round(len(text) * (1 - fraction)), max(1, round(len(text) * fraction * _TOLERANCE))
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, max(0, exact - tolerance), min(len(text), exact + tolerance))]
        if ends:
            return min(ends, key=lambda end: abs(end - exact))
    return exact

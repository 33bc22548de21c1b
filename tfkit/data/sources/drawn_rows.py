"""A few rows of a source, drawn by a seed, for a quick try."""

from collections.abc import Iterable, Iterator
from functools import cache
from heapq import nsmallest
from typing import TypeVar

from tfkit.data.columns.rows import DerivedRows, Source, hash_fraction

One = TypeVar("One")


def drawn_rows(source: Source, count: int, seed: int) -> DerivedRows:
    """Return at most `count` rows of a source, in their order. All are read, since any may be drawn, and one is in memory at a time."""
    drawn = cache(lambda: draw(source.rows({}), count, seed))
    note = f"; {count:,} rows of these at most, drawn by the seed {seed}"
    return DerivedRows(source, lambda rows: select(rows, drawn()), f"drawn {count} {seed}", note)


def draw(rows: Iterable[object], count: int, seed: int) -> frozenset[int]:
    """Return the places of `count` rows, counted from 0; if there are fewer rows, all places."""
    return frozenset(place for _, place in nsmallest(count, ((hash_fraction(f"{seed}\0{n}".encode()), n) for n, _ in enumerate(rows))))


def select(rows: Iterable[One], drawn: frozenset[int]) -> Iterator[One]:
    """Yield the rows at these places."""
    return (row for place, row in enumerate(rows) if place in drawn)

"""A few rows of a source, drawn by a seed, for a quick try."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from typing import TypeVar

from tfkit.data.columns.rows import Row, Skipped, Source, hash_fraction

One = TypeVar("One")


@dataclass(frozen=True)
class DrawnRows:
    """At most `count` rows of a source, in their order. All rows are read, since any may be drawn, and one is in memory at a time."""

    source: Source
    count: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def size_bytes(self) -> None:
        """None: a few rows may have any size."""

    def describe(self) -> str:
        """Describe the source, and how many of its rows are used."""
        return f"{self.source.describe()}; {self.count:,} rows of these at most, drawn by the seed {self.seed}"

    def fingerprint(self) -> str:
        """Return the source's fingerprint, with the number of rows and the seed."""
        return f"{self.source.fingerprint()}\0drawn {self.count} {self.seed}"

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield the drawn rows. Raises DataError as the source does, also for rows that are not drawn."""
        return select(self.source.rows(skipped), self._drawn)

    @cached_property
    def _drawn(self) -> frozenset[int]:
        return draw(self.source.rows({}), self.count, self.seed)


def draw(rows: Iterable[object], count: int, seed: int) -> frozenset[int]:
    """Return the places of `count` rows, counted from 0; of all, if there are fewer."""
    return frozenset(place for _, place in nsmallest(count, ((hash_fraction(f"{seed}\0{n}".encode()), n) for n, _ in enumerate(rows))))


def select(rows: Iterable[One], drawn: frozenset[int]) -> Iterator[One]:
    """Yield the rows at these places."""
    return (row for place, row in enumerate(rows) if place in drawn)

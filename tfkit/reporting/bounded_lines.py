"""Reading lines of untrusted files of any size: long lines are skipped, and long series thinned out evenly."""

from collections.abc import Iterator
from typing import BinaryIO, Generic, TypeVar

_T = TypeVar("_T")
_PIECE = 1 << 20


class ThinnedSeries(Generic[_T]):
    """A series that keeps about `limit` of the items added to it, evenly spaced, and always the last one."""

    def __init__(self, limit: int) -> None:
        assert limit >= 4
        self._limit = limit
        self._kept: list[_T] = []
        self._last: list[_T] = []
        self.every = 1
        self.added = 0

    def add(self, item: _T) -> None:
        """Add an item. Every n-th item is kept, and n is doubled whenever there are too many."""
        if self.added % self.every == 0:
            self._kept.append(item)
            if len(self._kept) > self._limit:
                self._kept, self.every = self._kept[::2], 2 * self.every
        self._last = [item]
        self.added += 1

    @property
    def items(self) -> list[_T]:
        """The kept items, in order."""
        return [*self._kept, *(self._last if (self.added - 1) % self.every else [])]


def complete_lines(file: BinaryIO, start: int, end: int, longest: int) -> Iterator[bytes | None]:
    """Yield the lines that begin between the bytes `start` and `end`, and None for each line longer than `longest` bytes.

    Unless `start` is 0, the line at `start` is skipped, since it may begin before. A last line without a line break is still being
    written, and is skipped, too.
    """
    file.seek(start)
    if start and not _skip_line(file):
        return
    while file.tell() < end and (line := file.readline(longest)):
        if line.endswith(b"\n"):
            yield line
        elif len(line) == longest:
            if not _skip_line(file):
                return
            yield None


def _skip_line(file: BinaryIO) -> bool:
    """Move past the end of the current line; return False if the file ends before it."""
    while piece := file.readline(_PIECE):
        if piece.endswith(b"\n"):
            return True
    return False

"""Lines of files of any size, from anyone: regular files only, long lines passed over, long series thinned out evenly."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

_T = TypeVar("_T")
_PIECE = 1 << 20


class Thinned(Generic[_T]):
    """A series of at most `most` items, evenly spread over what was added; the last item is always kept."""

    def __init__(self, most: int) -> None:
        assert most >= 4
        self._most = most
        self._kept: list[_T] = []
        self._last: _T | None = None
        self.every = 1
        self.added = 0

    def add(self, item: _T) -> None:
        """Add an item: every n-th is kept, with n doubled whenever there are too many."""
        if self.added % self.every == 0:
            self._kept.append(item)
            if len(self._kept) > self._most:
                self._kept, self.every = self._kept[::2], 2 * self.every
        self._last = item
        self.added += 1

    @property
    def items(self) -> list[_T]:
        """The items that are kept, in order."""
        has_last = self._last is None or (self._kept and self._kept[-1] is self._last)
        return [*self._kept] if has_last or self._last is None else [*self._kept, self._last]


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else: a pipe would block, a device never ends."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises OSError, also for a larger one."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(0, f"larger than {most:,} bytes")
    return content


def whole_lines(file: BinaryIO, start: int, end: int, longest: int) -> Iterator[bytes | None]:
    """Yield the lines that begin from byte `start` up to `end`, None for each that is longer than `longest` bytes.

    Within a file the first line is passed over, which begins before `start`. A last line without an end is one that is being written, and
    is left out.
    """
    file.seek(start)
    if start and not _pass_over(file):
        return
    while file.tell() < end and (line := file.readline(longest)):
        if line.endswith(b"\n"):
            yield line
        elif len(line) == longest:
            if not _pass_over(file):
                return
            yield None


def _pass_over(file: BinaryIO) -> bool:
    """Go behind the end of the current line; False: the file ends before."""
    while piece := file.readline(_PIECE):
        if piece.endswith(b"\n"):
            return True
    return False

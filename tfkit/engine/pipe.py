"""Lines that come out of a pipe, a terminal or a socket: read as they arrive, with the answer to whether more is there already."""

import io
import os
import select
from collections import deque
from typing import BinaryIO

from tfkit.errors import DataError

_BLOCK = 1 << 16  # bytes that are read at once
_LONGEST_LINE = 16 << 20  # bytes: more than any row or prompt


class Pipe(io.BufferedIOBase):
    """A stream of bytes whose `readline` waits for no more than the line, and `is_ready` for nothing. `name` is for errors."""

    def __init__(self, raw: BinaryIO, name: str):
        self._raw, self.name = raw, name
        self._lines: deque[bytes] = deque()  # whole ones that were not taken
        self._rest = b""  # the beginning of the next
        self._ended = False
        self._number = 0  # of whole lines that were read

    def readable(self) -> bool:
        """It is."""
        return True

    def is_ready(self) -> bool:
        """Whether the next line, or the end, can be read without waiting."""
        while not self._lines and not self._ended and _can_read(self._raw):
            self._fill()
        return bool(self._lines) or self._ended

    def first_line(self) -> bytes:
        """Return the first line that is not blank, which stays to be read; empty if there is none."""
        place = 0
        while True:
            while len(self._lines) <= place and not self._ended:
                self._fill()
            if len(self._lines) <= place:
                return b""
            if self._lines[place].strip():
                return self._lines[place]
            place += 1

    def readline(self, size: int | None = -1) -> bytes:
        """Return a line with its end; empty at the end of all. `size` is not read: a line comes whole."""
        while not self._lines and not self._ended:
            self._fill()
        return self._lines.popleft() if self._lines else b""

    def read(self, size: int | None = -1) -> bytes:
        """Return the next line, or, if `size` is None or negative, all that is left."""
        return self.readline() if size is not None and size >= 0 else b"".join(iter(self.readline, b""))

    def _fill(self) -> None:
        try:
            block = self._raw.read(_BLOCK)
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror or error}; check that it exists and its permissions") from error
        self._ended = not block
        if self._ended:
            self._lines += [self._rest] if self._rest else []
            return
        *lines, self._rest = (self._rest + block).split(b"\n")
        self._lines += [line + b"\n" for line in lines]
        self._number += len(lines)
        if len(self._rest) > _LONGEST_LINE:
            raise DataError(f"{self.name}:{self._number + 1}: a line of more than {_LONGEST_LINE:,} bytes; write one row per line")


def _can_read(file: BinaryIO) -> bool:
    """Return whether reading would not wait."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError):  # bytes in memory; or Windows, where a pipe cannot be asked
        return not hasattr(file, "fileno") or os.name != "nt"

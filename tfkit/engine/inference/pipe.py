"""Read lines of a pipe, a terminal or a socket as they arrive, without waiting for a full buffer."""

import io
import select
from collections import deque
from typing import BinaryIO

from tfkit.errors import DataError

_BLOCK = 1 << 16  # the largest number of bytes read at a time
_LONGEST_LINE = 16 << 20  # the largest number of bytes in a line, more than a row or prompt should have


class Pipe(io.BufferedIOBase):
    """A stream of bytes whose `readline` waits only until the line is complete. `name`: the stream's name in error messages."""

    def __init__(self, raw: BinaryIO, name: str):
        self._raw, self.name = raw, name
        self._lines: deque[bytes] = deque()  # complete lines that were not returned yet
        self._rest = b""  # the beginning of a line whose end was not read yet
        self._ended = False
        self._number = 0  # the number of complete lines that were read from the stream, returned or not

    def readable(self) -> bool:
        """Return True."""
        return True

    def is_ready(self) -> bool:
        """Whether the next line, or the end of the stream, can be read without waiting. This check itself never waits."""
        while not self._lines and not self._ended and _can_read(self._raw):
            self._fill()
        return bool(self._lines) or self._ended

    def first_line(self) -> bytes:
        """Return, without consuming it, the first line that is not blank; empty if there is none."""
        index = 0
        while True:
            while len(self._lines) <= index and not self._ended:
                self._fill()
            if len(self._lines) <= index:
                return b""
            if self._lines[index].strip():
                return self._lines[index]
            index += 1

    def readline(self, size: int | None = -1) -> bytes:
        """Return the next line with its newline; empty at the end of the stream. `size` is ignored: the whole line is returned."""
        while not self._lines and not self._ended:
            self._fill()
        return self._lines.popleft() if self._lines else b""

    def read(self, size: int | None = -1) -> bytes:
        """Return the next line or, if `size` is None or negative, the rest of the stream."""
        return self.readline() if size is not None and size >= 0 else b"".join(iter(self.readline, b""))

    def _fill(self) -> None:
        try:
            while (block := self._raw.read(_BLOCK)) is None:  # no data yet, and another program has made the stream non-blocking
                select.select([self._raw], [], [])
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
    """Whether `file` can be read without waiting."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError):  # a stream in memory, which never waits
        return True

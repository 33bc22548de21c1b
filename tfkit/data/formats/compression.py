"""Streams of compressed files, decompressed as they are read, within a budget against decompression bombs."""

import bz2
import gzip
import io
import lzma
from pathlib import PurePath
from typing import IO, cast

from tfkit.data.formats.suffixes import compression_of
from tfkit.errors import DataError
from tfkit.units import format_bytes

# Text compresses by a factor of 3 to 20; deflate can reach 1000.
_MAX_RATIO, _MIN_BUDGET = 250, 1 << 28  # the most decompressed bytes per compressed byte; decompressed bytes that are always allowed


class Budget:
    """A limit on the decompressed bytes of a file of `size` compressed bytes, against decompression bombs. Text stays far below it."""

    def __init__(self, name: str, size: int, remedy: str = "if it is intended, unpack it and name its files"):
        self.name, self.size, self.remedy = name, size, remedy
        self.left = max(_MIN_BUDGET, _MAX_RATIO * size)

    def spend(self, count: int) -> None:
        """Subtract decompressed bytes. Raise DataError if the budget is exceeded."""
        self.left -= count
        if self.left < 0:
            raise DataError(
                f"{self.name}: unpacks to more than {_MAX_RATIO} times its {format_bytes(self.size)}, as no text does; {self.remedy}"
            )


class _BudgetedStream(io.RawIOBase):
    """A decompressed stream whose bytes count against a budget. Closing it also closes `packed`, the compressed stream."""

    def __init__(self, stream: IO[bytes], packed: IO[bytes], budget: Budget):
        super().__init__()
        self.stream, self.packed, self.budget = stream, packed, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self.stream.read(len(buffer))
        self.budget.spend(len(chunk))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self.stream.close()
        self.packed.close()
        super().close()


def unpacked(name: PurePath, packed: IO[bytes], budget: Budget) -> IO[bytes]:
    """Return `packed` decompressed, as the suffix of `name` requires; the bytes read from the result count against the budget."""
    return io.BufferedReader(_BudgetedStream(_decompressed(packed, compression_of(name)), packed, budget), 1 << 16)


def _decompressed(packed: IO[bytes], compression: str) -> IO[bytes]:
    match compression:
        case "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
        case "bzip2":
            return bz2.BZ2File(packed)
        case "xz":
            return lzma.LZMAFile(packed)
        case "zstd":
            import pyarrow  # type: ignore[import-untyped]

            return cast(IO[bytes], pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd"))
    return packed

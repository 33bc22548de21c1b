"""Reader of Parquet files in bounded memory: a small file may expand to gigabytes if its rows repeat a long value of a dictionary.

This module is imported when a Parquet file is read, since the import of pyarrow takes time.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from pyarrow import types

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.compression import Budget
from tfkit.data.formats.file_content import Content, seekable
from tfkit.errors import DataError, first_line

_ROWS = 256  # the most rows in a decoded batch
_COUNTED_ROWS = 8192  # rows in a batch whose decoded size is only counted; many, since the whole dictionary is measured for each batch
_MAX_DECODED = 1 << 29  # the most decoded bytes in a batch; if `_ROWS` rows could have more, a batch has fewer rows


def read_parquet(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read the needed columns (`Columns.select_kept`) of a Parquet file, in batches of records. A record's place has its number, from 1."""
    name = content.name
    with seekable(content) as file:
        try:
            number = 0
            for batch in _batches(file, columns, name):
                for scalars in zip(*batch.columns, strict=True):
                    number += 1
                    yield _record(dict(zip(batch.schema.names, scalars, strict=True)), f"{name}:{number}")
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # UnicodeDecodeError: a column name is damaged
            raise DataError(f"{name}: damaged or no Parquet file ({first_line(error)}); fetch or write it again") from error


def _batches(file: IO[bytes], columns: Columns, name: str) -> Iterator[Any]:
    """Yield record batches of the columns that are read. Raise DataError if their size, by the metadata or in fact, exceeds a `Budget`."""
    table = pyarrow.parquet.ParquetFile(file)
    columns.check(table.schema_arrow.names, name)
    wanted = columns.select_kept(table.schema_arrow.names)
    size = file.seek(0, 2)
    remedy = "if it is intended, write it as JSON lines, and name that file"
    chunks = list(_chunks(table, size, wanted))
    Budget(name, size, remedy).spend(sum(max(chunk.total_uncompressed_size, chunk.num_values) for _, chunk in chunks))
    rows = _batch_rows(file, chunks, Budget(name, size, remedy))
    budget = Budget(name, size, remedy)
    for batch in table.iter_batches(batch_size=rows, columns=wanted):
        budget.spend(sum(map(_decoded_bytes, batch.columns)))
        yield batch


def _chunks(table: Any, size: int, wanted: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield the index of the row group and the metadata of each column chunk that is read.

    Damaged metadata of a chunk crash the process in `RowGroupMetaData.column` (pyarrow 26 does not catch a C++ exception), but a reader of
    the chunk raises a Python exception. So each chunk is first opened by a reader, which either raises or reaches the first page.
    """
    leaves = [table.schema.column(number).path for number in range(len(table.schema))]
    for group in range(table.metadata.num_row_groups):
        for number, leaf in enumerate(leaves):
            if leaf in wanted or leaf.partition(".")[0] in wanted:
                with contextlib.suppress(_PageReached):
                    next(pyarrow.parquet.ParquetFile(_NoPages(size), metadata=table.metadata).iter_batches(1, [group], [leaf]))
                yield group, table.metadata.row_group(group).column(number)


class _PageReached(Exception):
    pass


class _NoPages(io.RawIOBase):
    """A file of a given size. Reading its bytes raises _PageReached."""

    def __init__(self, size: int):
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = self._size if whence == io.SEEK_END else offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        raise _PageReached


def _batch_rows(file: IO[bytes], chunks: Sequence[tuple[int, Any]], budget: Budget) -> int:
    """Return the number of rows in a batch: `_ROWS`, or fewer if a dictionary has long values. If expanded dictionary values could fill the
    memory, their size is counted before they are expanded. Raise DataError if that size exceeds `budget`.
    """
    rows = _ROWS
    for group, chunk in chunks:
        path = chunk.path_in_schema
        values = chunk.num_values if "." in path else min(_ROWS, chunk.num_values)  # one list may hold all values of the row group
        if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page or chunk.total_uncompressed_size * values <= _MAX_DECODED:
            continue
        by_dictionary = pyarrow.parquet.ParquetFile(file, read_dictionary=[path], buffer_size=1 << 16)
        longest = max(map(_longest, next(by_dictionary.iter_batches(1, [group], [path])).columns))
        if longest * values > _MAX_DECODED:
            rows = 1 if "." in path else min(rows, max(1, _MAX_DECODED // longest))
            with contextlib.suppress(pyarrow.ArrowNotImplementedError):  # raised for lists whose texts are only partly in the dictionary
                for batch in by_dictionary.iter_batches(_COUNTED_ROWS, [group], [path]):
                    budget.spend(sum(map(_decoded_bytes, batch.columns)))
    return rows


def _longest(array: Any) -> int:
    """Return the length in bytes of the longest value in an array's dictionary, or in the dictionaries of its nested arrays."""
    if types.is_dictionary(array.type):
        return pyarrow.compute.max(pyarrow.compute.binary_length(array.dictionary)).as_py() or 0 if len(array.dictionary) else 0
    return max(map(_longest, _inner(array)), default=0)


def _decoded_bytes(array: Any) -> int:
    """Return the size in bytes of an array with its dictionary values expanded."""
    are_texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if types.is_dictionary(array.type) and any(test(array.type.value_type) for test in are_texts):
        lengths = pyarrow.compute.binary_length(array.dictionary)
        return pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0
    inner = _inner(array)
    return sum(map(_decoded_bytes, inner)) if inner else int(array.nbytes)


def _inner(array: Any) -> list[Any]:
    """Return the arrays inside an array of lists, of structures or of maps."""
    if types.is_struct(array.type):
        return list(array.flatten())
    if types.is_map(array.type):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return [part[first:last] for part in (array.keys, array.items)]
    if any(test(array.type) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return [array.flatten()]
    return []


def _record(scalars: dict[str, Any], place: str) -> Record | BadRow:
    values: dict[str, Any] = {}
    for column, scalar in scalars.items():
        try:
            values[column] = scalar.as_py()
        except UnicodeDecodeError as error:
            return BadRow("not UTF-8", f"{place}: byte {error.start} of column {column!r} is not UTF-8; write the file again")
        except (ValueError, OverflowError, LookupError) as error:  # a date outside Python's range, an unknown time zone
            return BadRow("not text", f"{place}: column {column!r} holds {scalar.type}, not text ({first_line(error)}); remove the row")
    return Record(values, place)

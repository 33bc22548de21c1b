"""Write vectors, some rows (a window) at a time: the vectors alone as a NumPy array, or rows with their vectors as a Parquet table."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfkit.engine.inference.predictions_file import json_line, output_file
from tfkit.errors import DataError, UsageError, argument

_VECTOR = "embedding"  # the field of a row that holds its vector


def require_vectors_file(path: Path) -> None:
    """Raise UsageError for a path whose suffix is not .npy or .parquet, and for a device or a pipe."""
    if path.suffix.lower() not in (".npy", ".parquet"):
        raise UsageError(
            f"{argument('out', path)}: vectors are written to F.npy or F.parquet; without {argument('out')} they are JSON lines on stdout"
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{argument('out', path)}: is a device or a pipe, to which such a file cannot be written; name a file")


@contextmanager
def vectors_file(path: Path, dim: int) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """Open a file, and yield a function that writes rows with vectors of length `dim`. The file gets its name if the with block succeeds.

    If `path` is a link, its target is replaced. Raises MachineError if writing fails, DataError for rows that do not fit a table.
    """
    with output_file(path.resolve(), argument("out"), mode="b") as file, ExitStack() as stack:
        if path.suffix.lower() == ".npy":
            yield stack.enter_context(_array(file, dim))
        else:
            yield _ParquetRows(file, dim, stack).write


@contextmanager
def _array(file: IO[bytes], dim: int) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
    """Write an array's header, and yield a function that appends vectors. At the end, write their number into the header."""
    rows = 0

    def write_header() -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})

    def write(lines: Sequence[Mapping[str, Any]]) -> None:
        nonlocal rows
        rows += len(lines)
        file.write(np.stack([line[_VECTOR] for line in lines]).astype("<f4").tobytes())

    write_header()
    begin = file.tell()
    yield write
    file.seek(0)
    write_header()
    assert file.tell() == begin  # the header keeps its length, since NumPy reserves space for the digits of the number


class _ParquetRows:
    """Writes a row group of Parquet for each window of rows. The first window determines the columns and their types. A field whose values
    in this window are not all numbers, all booleans or all times is a column of text, in which values other than texts are JSON.
    """

    def __init__(self, file: IO[bytes], dim: int, stack: ExitStack):
        self.file, self.dim, self.stack, self.rows = file, dim, stack, 0
        self.writer: Any = None

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write a window of rows. Raises DataError for a row with a field that the first window lacks, or with a value of another type."""
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]

        names = [name for name in dict.fromkeys(name for line in lines for name in line) if name != _VECTOR]
        columns = {name: [line.get(name) for line in lines] for name in names}
        if self.writer is None:
            fields = [(_text(name), _type_of(values)) for name, values in columns.items()]
            schema = pa.schema([*fields, (_VECTOR, pa.list_(pa.float32(), self.dim))])
            self.writer = self.stack.enter_context(parquet.ParquetWriter(self.file, schema))
            self.names = names
        place = f"rows {self.rows + 1:,} to {self.rows + len(lines):,}"
        self.rows += len(lines)
        if (unknown := next((name for name in names if name not in self.names), None)) is not None:
            raise DataError(f"{place}: a row has the field {unknown!r}, and the first ones have none of this name; {_remedy()}")
        arrays = []
        for name, kind in zip(self.names, self.writer.schema.types, strict=False):
            values = columns.get(name, [None] * len(lines))
            try:
                arrays.append(pa.array(map(_text, values) if kind == pa.string() else values, kind))
            except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
                raise DataError(
                    f"{place}: the field {name!r} is of type {kind} in the first rows, and not here ({error}); {_remedy()}"
                ) from error
        vectors = pa.array(np.concatenate([line[_VECTOR] for line in lines]), pa.float32())
        arrays.append(pa.FixedSizeListArray.from_arrays(vectors, self.dim))
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.writer.schema))


def _type_of(values: Sequence[Any]) -> Any:
    """Return the type of a column with these values: a type of numbers, booleans or times if it fits all of them, else text."""
    import pyarrow as pa

    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return pa.string()
    return kind if pa.types.is_primitive(kind) else pa.string()


def _text(value: Any) -> str | None:
    """Return a text with half characters (surrogates) escaped, any other value as JSON, and None as None."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(json_line({"": value})[""], ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()


def _remedy() -> str:
    return f"write the vectors alone, {argument('out', 'F.npy')}, or JSON lines to stdout"

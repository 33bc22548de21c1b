"""Write predictions as JSON lines, a table or CoNLL. Commands check the path of the file before they compute the answers."""

import csv
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from tfkit.durable import is_replaceable, sync_file, sync_folder, temporary_sibling
from tfkit.engine.listener import StopRequest
from tfkit.errors import DataError, MachineError, UsageError, argument, writing
from tfkit.run.strict_json import finite

WriteLine = Callable[[Mapping[str, Any]], None]
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # the delimiter of a table, by the suffix of its file
CONLL = (".conll", ".bio", ".iob", ".iob2")  # suffixes of files in which each line has a word and its tag
_JSON_LINES = ("", ".jsonl", ".ndjson")
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # tabs and line breaks in a word; a space replaces them in CoNLL
_SEPARATORS = {ord(one): f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"}  # escaped in JSON, since some readers split lines there


def require_writable(path: Path, option: str) -> None:
    """Raise MachineError for a path that cannot be written. `option`: the option that gave the path, as the message names it."""
    with writing(path, f"give another place for {option}"):
        folder = path.absolute().parent
        if not folder.is_dir():
            raise MachineError(f"{path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise MachineError(f"{path}: is a folder; {option} takes the name of a file")
        written = path if path.exists() and not is_replaceable(path) else path.resolve().parent
        if not written.exists():
            raise FileNotFoundError(errno.ENOENT, f"it leads to {path.resolve()}, and there is no such folder")
        if not os.access(written, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def require_suffix(path: Path, *, of_tags: bool) -> None:
    """Raise UsageError if a file has a suffix that no known format has. `of_tags`: whether answers are tags of words, as CoNLL needs."""
    suffix, known = path.suffix.lower(), (*_JSON_LINES[1:], *DELIMITERS, *(CONLL if of_tags else ()))
    if suffix not in ("", *known) and is_replaceable(path):
        raise UsageError(f"{argument('out', path)}: nothing is written in the format {suffix}; name a file in {', '.join(known)}")


def require_json_lines(path: Path) -> None:
    """Raise UsageError if the suffix is that of a table or of CoNLL, since an evaluation writes its predictions as JSON lines only."""
    if (suffix := path.suffix.lower()) in (*DELIMITERS, *CONLL):
        raise UsageError(
            f"{argument('predictions', path)}: nothing is written in the format {suffix}, only JSON lines; name a file in .jsonl, or write "
            "the answers alone with tfkit predict --out"
        )


def write_predictions(path: Path, predictions: Iterable[Mapping[str, Any]], stop: StopRequest) -> None:
    """Write `predictions`, in their order, as JSON lines. If `path` is a pipe whose reader has closed it, stop writing without an error."""
    with suppress(BrokenPipeError), lines_file(path, stop, argument("predictions")) as write:
        for prediction in predictions:
            write(prediction)


@contextmanager
def lines_file(
    path: Path, stop: StopRequest, option: str, delimiter: str | None = None, further_columns: tuple[str, ...] = ()
) -> Iterator[WriteLine]:
    """Open a file, and yield a function that writes a row: with a `delimiter` as a line of a table, else by the suffix as CoNLL or JSON.

    The file has a temporary name until the with block ends; after an error it is removed. A device, a pipe or a link is written directly; a
    signal ends the wait for a pipe's reader. `further_columns`: columns that a table has besides the fields of its first row with a
    prediction. Raises MachineError if the file cannot be written, BrokenPipeError if a pipe has no reader any more.
    """
    is_new = is_replaceable(path)
    waiting = nullcontext if is_new else partial(stop.at_once, "the predictions are not all written")
    with output_file(path, option, waiting, encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = _Table(file, delimiter, further_columns) if delimiter else None
        write_line = table.write if table is not None else partial(_write_conll if path.suffix.lower() in CONLL else _write_json, file)

        def write(line: Mapping[str, Any]) -> None:
            with waiting():
                write_line(line)
                if not is_new:
                    file.flush()

        yield write
        if table is not None:
            table.finish()


@contextmanager
def output_file(
    path: Path, option: str, waiting: Callable[[], AbstractContextManager[None]] = nullcontext, mode: str = "", **settings: str
) -> Iterator[IO[Any]]:
    """Open a file that is renamed to `path` when the with block ends; a device, pipe or link is opened itself, in the context `waiting()`.

    `mode`, `settings`: arguments for Python's `open`. Raises MachineError for a failure, but BrokenPipeError if a pipe's reader has gone.
    """
    is_new = is_replaceable(path)
    temporary = temporary_sibling(path) if is_new else path
    try:
        with waiting():
            opened = open(temporary, f"{'x' if is_new else 'w'}{mode}", **settings)  # type: ignore[call-overload]  # noqa: SIM115
        with opened as file:
            yield file
        if is_new:
            sync_file(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BrokenPipeError:
        raise
    except OSError:
        with writing(path, f"give another place for {option}"):
            raise
    finally:
        if is_new:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def json_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a line as JSON values: None for a number that is not finite, a list for an array, and text for a value of a type
    that JSON lacks. Raises DataError for a value that is nested too deeply.
    """
    with _nesting():
        return finite({name: _plain(value) for name, value in line.items()})


@contextmanager
def _nesting() -> Iterator[None]:
    """Raise DataError if the with block raises RecursionError, as for a value that is nested too deeply."""
    try:
        yield
    except RecursionError:
        raise DataError("a field of a row is nested too deeply to be written again; leave it out") from None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return [float(str(number)) for number in value]  # the shortest decimal number that gives the same float32
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else str(value)


def _write_json(file: IO[str], line: Mapping[str, Any]) -> None:
    """Write a JSON document as a line."""
    file.write(json.dumps(json_line(line), ensure_ascii=False).translate(_SEPARATORS) + "\n")


def _write_conll(file: IO[str], line: Mapping[str, Any]) -> None:
    """Write a line for each word of the field `tokens`, with its tag ("_" for a word without one), and an empty line after the row."""
    words, tags = line.get("tokens") or [], line.get("prediction") or []
    for word, tag in zip_longest(words, tags[: len(words)]):
        file.write(f"{_BREAKS.sub(' ', str(word))}\t{tag or '_'}\n")
    file.write("\n")


class _Table:
    """Writes rows under a header: the fields of the first row with a prediction, and `further_columns`. Earlier rows wait for it."""

    def __init__(self, file: IO[str], delimiter: str, further_columns: tuple[str, ...]):
        rows = SimpleNamespace(write=lambda row: file.write(row.removesuffix("\r\n") + "\n"))
        # csv quotes a field that has a character of its line terminator: \r\n, so that \r and \n are quoted. `rows` ends lines with \n.
        self.writer = csv.writer(rows, delimiter=delimiter)
        self.further_columns = further_columns
        self.header: list[str] | None = None
        self.waiting: list[Mapping[str, Any]] = []

    def write(self, line: Mapping[str, Any]) -> None:
        self.waiting.append(line)
        if self.header is not None or line["prediction"] is not None:
            self._write_waiting(line)

    def finish(self) -> None:
        """Write the rows that are still held back, if no row has had a prediction."""
        if self.waiting:
            self._write_waiting(self.waiting[0])

    def _write_waiting(self, first: Mapping[str, Any]) -> None:
        """Write the rows that are held back, after the header if it is not written yet. `first`: the row whose fields become the header."""
        if self.header is None:
            self.header = [*first, *(name for name in self.further_columns if name not in first)]
            self.writer.writerow(self.header)
        for row in self.waiting:
            if (unknown := next((name for name in row if name not in self.header), None)) is not None:
                raise DataError(
                    f"a row has the field {unknown!r}, and the first has none of this name; write JSON lines: {argument('out', 'F.jsonl')}"
                )
            self.writer.writerow([_cell(row.get(name)) for name in self.header])
        self.waiting.clear()


def _cell(value: Any) -> Any:
    """Return a value as it is written in a table: lists, arrays and mappings as JSON. Raises DataError if it is nested too deeply."""
    with _nesting():
        value = _plain(value)
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value

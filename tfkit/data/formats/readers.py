"""The rows of local files, by format. A reader is a generator that holds one record at a time.

A row that cannot be read is a BadRow, and reading continues after it. Damage to a whole file raises DataError, with the place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.formats.conll import read_conll, read_conllu
from tfkit.data.formats.file_content import Content, content_of, decode, pieces, whole
from tfkit.data.formats.json_files import read_json, read_jsonl
from tfkit.data.formats.parquet import read_parquet
from tfkit.data.formats.recognised import Table, conll_of, table_of
from tfkit.data.formats.suffixes import FORMAT_OF, is_zip
from tfkit.data.formats.tables import read_csv, read_separated, read_tsv
from tfkit.data.sources.archives import members
from tfkit.errors import DataError

Rows = Iterator[Row | BadRow]


@dataclass(frozen=True)
class Layout:
    """The recipe's description of the files' layout, where the files do not show it.

    `format`: of all of them; None: by their suffixes. `header`: the names of the columns of files without a header line.
    `beside`: further columns, each from files that are parallel, line by line, one for each file. `keys`: of a JSON object those that hold
    the rows; empty: the only one that does. `recognises`: the layout is looked for in the first lines of a file, too; not so in tfkit 0.1.
    """

    format: str | None = None
    header: tuple[str, ...] = ()
    beside: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    array_columns: tuple[str, ...] = ()  # of the arrays under the keys, which were recognised over all of them
    recognises: bool = True
    numbered: bool = False  # the recipe names columns without names by their numbers

    @property
    def is_given(self) -> bool:
        """Whether the recipe describes anything of it."""
        return (self.format, self.header, self.beside) != (None, (), {})


def read_rows(path: Path, columns: Columns, layout: Layout = Layout(), number: int = 0) -> Rows:
    """Return the rows of a file, or of the files in an archive; `number` is its index among the source's files. Raise DataError."""
    contents = members(path, recognises=layout.recognises) if is_zip(path) else iter([content_of(path)])
    records: Records = (record for content in contents for record in _records(content, columns, layout))
    if layout.beside:
        records = _side_by_side(records, path, {column: paths[number] for column, paths in layout.beside.items()})
    return _rows(records, columns)


def read_content(content: Content, columns: Columns, layout: Layout, delimiter: str | None = None) -> Rows:
    """Return the rows of what is no file, and can be read only once; `delimiter`: of a table."""
    if delimiter is not None:
        return _rows(read_separated(content, columns, delimiter, layout.header), columns)
    return _rows(_records(content, columns, replace(layout, recognises=False)), columns)


def _rows(records: Records, columns: Columns) -> Rows:
    return (record if isinstance(record, BadRow) else _row(record, columns) for record in records)


def _row(record: Record, columns: Columns) -> Row | BadRow:
    columns.check_one_text(record.values, record.place)  # a record of JSON has columns that no header announced
    return columns.take(record)


def read_text(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read a whole text file as one record, with the column `text`; skip an empty one. A byte order mark is removed, line ends stay."""
    text = decode(whole(content))
    if text:
        yield text if isinstance(text, BadRow) else Record({"text": text}, content.name, is_file=True)


def read_lines(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read each line as a record, with the column `text`, without its end; an empty one, too."""
    for line in pieces(content):
        text = decode(line)
        yield text if isinstance(text, BadRow) else Record({"text": text.removesuffix("\n").removesuffix("\r")}, line.place)


FORMATS: dict[str, Callable[[Content, Columns, tuple[str, ...]], Records]] = {
    "text": read_text,
    "lines": read_lines,
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "conll": read_conll,
    "conllu": read_conllu,
}
_SEPARATED = {"csv": ",", "tsv": "\t"}
HEADERS = ("csv", "tsv", "conll")  # the formats that read a given header
READER_VERSIONS = {"tsv": 2}  # part of the fingerprint of files of a format: raise it, or add one, when the same bytes give other rows


def reader_versions(path: Path, layout: Layout) -> dict[str, int]:
    """Return the versions of the readers of a file, or of the files in an archive; without formats that have only one version."""
    contents = members(path, recognises=layout.recognises) if is_zip(path) else [content_of(path)]
    names = {_format_of(content, layout) for content in contents}
    return {name: version for name, version in READER_VERSIONS.items() if name in names}


def are_texts(paths: Sequence[Path], columns: Columns, layout: Layout) -> bool:
    """Whether each of the files is one row, its whole text."""
    return not any(is_zip(path) for path in paths) and all(_seen_format(content_of(path), columns, layout) == "text" for path in paths)


def describe_layout(path: Path, columns: Columns, layout: Layout) -> str:
    """Describe what the content of a file showed of its layout; empty if nothing."""
    if is_zip(path) or not layout.recognises:
        return ", ".join(layout.keys)
    content = content_of(path)
    named, seen = _format_of(content, layout), _seen_format(content, columns, layout)
    if seen != named:
        return f"read as {seen}, by its lines"
    if seen not in _SEPARATED:
        return f"under {', '.join(map(repr, layout.keys))}" if layout.keys else ""
    table = table_of(content, columns, _SEPARATED[seen], numbered=layout.numbered)
    return "" if layout.header or table == Table(_SEPARATED[seen]) else table.describe()


def _format_of(content: Content, layout: Layout) -> str:
    return layout.format or FORMAT_OF.get(content.suffix, "text")


def _seen_format(content: Content, columns: Columns, layout: Layout) -> str:
    """Return the format of a file: CoNLL, where its lines show it and its columns are wanted, else that of its name."""
    name = _format_of(content, layout)
    looks = layout.recognises and layout.format is None and name in ("text", "tsv") and "tokens" in columns.wanted(["tokens", "tags"])
    return (conll_of(content) if looks else None) or name


def _records(content: Content, columns: Columns, layout: Layout) -> Records:
    name = _seen_format(content, columns, layout)
    if layout.header and name not in HEADERS:
        raise DataError(f"{content.name}: header names the columns of {', '.join(HEADERS)} files, but this is {name}; remove header")
    if name in _SEPARATED and layout.recognises:
        table = table_of(content, columns, _SEPARATED[name], numbered=layout.numbered)
        return read_separated(content, columns, table.delimiter, layout.header or table.header)
    if name == "json":
        return read_json(content, columns, layout.array_columns, layout.keys, numbered=layout.numbered)
    return FORMATS[name](content, columns, layout.header)


def _side_by_side(records: Records, path: Path, beside: Mapping[str, Path]) -> Records:
    """Yield each record with the lines of its number as further columns. Raise DataError if one file has more than another."""
    sides = {column: read_lines(content_of(side), Columns()) for column, side in beside.items()}
    count = 0
    for count, record in enumerate(records, 1):
        for column, side in sides.items():
            line = next(side, None)
            if line is None:
                raise _uneven(path, count + sum(1 for _ in records), beside[column], count - 1)
            record = _joined(record, column, line)
        yield record
    for column, side in sides.items():
        if more := sum(1 for _ in side):
            raise _uneven(path, count, beside[column], count + more)


def _joined(record: Record | BadRow, column: str, line: Record | BadRow) -> Record | BadRow:
    if isinstance(record, BadRow) or isinstance(line, BadRow):
        return record if isinstance(record, BadRow) else line
    if column in record.values:
        raise DataError(f"{record.place}: has a column {column!r} itself; give the parallel column another name")
    return record._replace(values={**record.values, column: line.values["text"]})


def _uneven(path: Path, rows: int, side: Path, lines: int) -> DataError:
    hint = "" if rows != 1 else "; if each line is a row, set format: lines"
    return DataError(f"{path} has {rows:,} row{'s' * (rows != 1)}, but the parallel file {side} has {lines:,} lines: they must agree{hint}")

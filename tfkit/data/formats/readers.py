"""The rows of local files, by format. A reader is a generator of records with at most a few hundred records in memory at a time.

A row that cannot be read is a BadRow, and reading continues after it. A damaged file raises DataError, with the place.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath

from tfkit.data.columns.record_columns import Columns, Record, Records
from tfkit.data.columns.rows import BadRow, Row
from tfkit.data.formats.conll import read_conll, read_conllu, sentences_of
from tfkit.data.formats.detection import LABEL_MARK, Table, detect_conll, detect_fasttext, detect_json_lines, detect_tabbed, detect_table
from tfkit.data.formats.file_content import Content, content_of, decode, read_whole, row_lines
from tfkit.data.formats.json_files import read_json, read_jsonl
from tfkit.data.formats.suffixes import CODE_SUFFIXES, FORMAT_OF, is_archive, suffix_of
from tfkit.data.formats.tables import read_separated
from tfkit.data.sources.archives import members
from tfkit.errors import DataError
from tfkit.recipe.schema.roles import TEXT
from tfkit.units import format_number_of

Rows = Iterator[Row | BadRow]
_MARKED = re.compile(rf"{LABEL_MARK}(\S+)\s*")


@dataclass(frozen=True)
class Layout:
    """The layout of a source's files, as far as it follows from the recipe, from the names of the files and from the keys in JSON files;
    the readers detect the rest. `beside`: more columns, by name, and the parallel files with their values: a file for each file
    of the source, and a line for each row.
    """

    format: str | None = None  # the format of all files; None: each file's format is found by its suffix or its first lines
    header: tuple[str, ...] = ()  # the column names of files without a header line
    beside: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  # the keys of a JSON object under which the rows are; empty: under its only array of objects
    array_columns: tuple[str, ...] = ()  # the column names of arrays of arrays under `keys`, detected from all these arrays
    recognises: bool = True  # whether the layout is also detected from the first lines of a file (tfkit 0.1 did not)
    numbered: bool = False  # whether the recipe names columns by number; if so, columns without a header are named 0, 1 and so on
    by_folder: bool = False  # whether rows get a column `folder`, the name of their file's folder
    only: tuple[str, ...] = ()  # the files of an archive that are read; empty: all


def read_rows(path: Path, columns: Columns, layout: Layout = Layout(), number: int = 0) -> Rows:
    """Return the rows of a file or of an archive's files. `number`: the file's index in the source. Raises DataError for a damaged file."""
    contents = members(path, recognises=layout.recognises, only=layout.only) if is_archive(path) else iter([content_of(path)])
    records: Records = (record for content in contents for record in _records(content, columns, layout))
    if layout.beside:
        records = _with_parallel_columns(records, path, {column: paths[number] for column, paths in layout.beside.items()})
    return _rows(records, columns)


def read_content(content: Content, columns: Columns, layout: Layout, delimiter: str | None = None) -> Rows:
    """Return the rows of a stream that is read once, such as standard input. `delimiter`: a table's; None: of the format in `layout`."""
    if delimiter is not None:
        return _rows(read_separated(content, columns, layout.header, delimiter=delimiter), columns)
    return _rows(_records(content, columns, replace(layout, recognises=False)), columns)


def _rows(records: Records, columns: Columns) -> Rows:
    for record in records:
        if isinstance(record, BadRow):
            yield record
        else:
            columns.check_one_text(record.values, record.place)  # a JSON record may have columns that earlier records do not have
            yield columns.take(record)


def read_text(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Yield a text file as one record with the column `text`, or nothing if it is empty. A byte order mark is removed, line ends stay."""
    text = decode(read_whole(content), may_be_western=True)
    if text:
        yield text if isinstance(text, BadRow) else Record({"text": text}, content.name, is_file=True)


def read_fasttext(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read each line, such as `__label__sauce __label__bread How is ...`, as its labels, joined by `|`, and the text without them."""
    for line in row_lines(content):
        text = decode(line)
        if isinstance(text, BadRow):
            yield text
        elif text.strip():
            yield Record({"label": "|".join(_MARKED.findall(text)), "text": _MARKED.sub("", text).strip()}, line.place)


def read_lines(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    """Read each line, also an empty one, without its line end, as a record with one column, named by the header or else `text`."""
    name = header[0] if header else "text"
    for line in row_lines(content):
        text = decode(line)
        yield text if isinstance(text, BadRow) else Record({name: text.removesuffix("\n").removesuffix("\r")}, line.place)


def _read_parquet(content: Content, columns: Columns, header: tuple[str, ...] = ()) -> Records:
    from tfkit.data.formats.parquet import read_parquet  # imports pyarrow, which takes time

    return read_parquet(content, columns)


_SEPARATED = {"csv": ",", "tsv": "\t"}
FORMATS: dict[str, Callable[[Content, Columns, tuple[str, ...]], Records]] = {
    "text": read_text,
    "lines": read_lines,
    "jsonl": read_jsonl,
    "json": read_json,
    **{name: partial(read_separated, delimiter=delimiter) for name, delimiter in _SEPARATED.items()},
    "parquet": _read_parquet,
    "conll": read_conll,
    "conllu": read_conllu,
    "fasttext": read_fasttext,
}
HEADERS = ("csv", "tsv", "conll", "lines")  # formats for which a recipe may give a header
# Part of the fingerprint of files: raise or add a format's version when its files give other rows (a .tar was once read as a text).
READER_VERSIONS = {"tsv": 2, "tar": 1}


def reader_versions(path: Path, layout: Layout) -> dict[str, int]:
    """Return the versions of the readers for a file, or for an archive and its files; a reader that never changed has no version."""
    contents = members(path, recognises=layout.recognises) if is_archive(path) else [content_of(path)]
    names = {_format_of(content, layout) for content in contents} | ({"tar"} if suffix_of(path) == ".tar" else set())
    return {name: version for name, version in READER_VERSIONS.items() if name in names}


def are_texts(paths: Sequence[Path], columns: Columns, layout: Layout) -> bool:
    """Whether each file is read as one row, its whole text."""
    return not any(is_archive(path) for path in paths) and all(
        _detect_format(content_of(path), columns, layout) == "text" for path in paths
    )


def describe_layout(path: Path, columns: Columns, layout: Layout) -> str:
    """Return a text on what was detected of a file's layout, or the JSON keys above its rows; empty for the suffix's usual layout."""
    if is_archive(path) or not layout.recognises:
        return ", ".join(layout.keys)
    content = content_of(path)
    format_name = _detect_format(content, columns, layout)
    if format_name != _format_of(content, layout):
        return f"read as {format_name}, by its lines"
    if format_name not in _SEPARATED:
        return f"under {', '.join(map(repr, layout.keys))}" if layout.keys else ""
    table = detect_table(content, columns, _SEPARATED[format_name], numbered=layout.numbered)
    return "" if layout.header or table == Table(_SEPARATED[format_name]) else table.describe()


def _format_of(content: Content, layout: Layout) -> str:
    return layout.format or FORMAT_OF.get(content.suffix, "text")


def _detect_format(content: Content, columns: Columns, layout: Layout) -> str:
    """Return the recipe's format for a file; else the format detected from its lines (JSON lines; CoNLL, if a role reads tokens; fastText's
    format or a table, if roles read more than the text); else the format of its suffix.
    """
    name = _format_of(content, layout)
    if not layout.recognises or layout.format is not None:
        return name
    if name == "json" and detect_json_lines(content):
        return "jsonl"
    detects = name in ("text", "tsv") and "tokens" in (*columns.named, *columns.select_read(["tokens", "tags"]))
    if detects and (conll := detect_conll(content)):
        return conll
    is_plain = name == "text" and content.suffix not in CODE_SUFFIXES and (columns.roles != TEXT or bool(columns.beyond_roles))
    if is_plain and detect_fasttext(content):
        return "fasttext"
    return "tsv" if is_plain and detect_tabbed(content) else name


def _records(content: Content, columns: Columns, layout: Layout) -> Records:
    if layout.by_folder:
        folder = Record({"text": PurePath(content.name).parent.name}, content.name)
        return (_add_column(record, "folder", folder) for record in _records(content, columns, replace(layout, by_folder=False)))
    name = _detect_format(content, columns, layout)
    if layout.header and name not in HEADERS:
        raise DataError(f"{content.name}: header names the columns of {', '.join(HEADERS)} files, but this is {name}; remove header")
    if name in _SEPARATED and layout.recognises:
        table = detect_table(content, columns, _SEPARATED[name], numbered=layout.numbered)
        return sentences_of(read_separated(content, columns, layout.header or table.header, delimiter=table.delimiter), columns)
    if name == "json":
        return read_json(content, columns, layout.array_columns, layout.keys, numbered=layout.numbered)
    return FORMATS[name](content, columns, layout.header)


def _with_parallel_columns(records: Records, path: Path, beside: Mapping[str, Path]) -> Records:
    """Yield each record n with line n of every parallel file as an added column. Raise DataError if a file has too few or many lines."""
    parallel = {column: read_lines(content_of(file), Columns()) for column, file in beside.items()}
    count = 0
    for count, record in enumerate(records, 1):
        for column, lines in parallel.items():
            line = next(lines, None)
            if line is None:
                raise _length_error(path, count + sum(1 for _ in records), beside[column], count - 1)
            record = _add_column(record, column, line)
        yield record
    for column, lines in parallel.items():
        if remaining := sum(1 for _ in lines):
            raise _length_error(path, count, beside[column], count + remaining)


def _add_column(record: Record | BadRow, column: str, line: Record | BadRow) -> Record | BadRow:
    if isinstance(record, BadRow) or isinstance(line, BadRow):
        return record if isinstance(record, BadRow) else line
    if column in record.values:
        raise DataError(f"{record.place}: has a column {column!r} itself; give the parallel column another name")
    return record._replace(values={**record.values, column: line.values["text"]})


def _length_error(path: Path, rows: int, parallel: Path, lines: int) -> DataError:
    hint = "" if rows != 1 else "; if each line is a row, set format: lines"
    counts = f"{path} has {format_number_of(rows, 'row')}, but the parallel file {parallel} has {format_number_of(lines, 'line')}"
    return DataError(f"{counts}: they must agree{hint}")

"""Rows that keep all fields of records: for predictions, beside the row that the objective reads; to recognise a task, without it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import FIRST_ROWS, BadRow, OnBadRow, Row, Source
from tfkit.data.formats.file_content import Content
from tfkit.data.formats.readers import Layout, read_content, read_rows
from tfkit.data.sources.local_files import FileSource
from tfkit.data.sources.open_sources import open_source
from tfkit.errors import argument
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.roles import Role

_WORD = re.compile(r"\w+(?:[-'’.,]\w+)*|[^\w\s]")  # a word may have hyphens and apostrophes inside, a number points and commas
_CARRIED = "prediction input"  # the name of the only value in a row that `take` returns


class PredictionInput(NamedTuple):
    """The fields of a record (empty if the record could not be read), and the row of the record, or the error in it."""

    fields: Mapping[str, Any]
    row: Row | BadRow


@dataclass(frozen=True)
class PredictionColumns(Columns):
    """Columns that keep the whole record with its row. `option`: the command-line option that names a role's column, for error messages;
    empty: --columns. `takes_lines`: whether a row may also be a plain text, without the named column.
    """

    option: str = ""
    takes_lines: bool = True

    def take(self, record: Record) -> Row:
        """Return a row whose only value is the record's PredictionInput, even if the record is bad, since a source yields no BadRow."""
        return Row("", record.place, {_CARRIED: self.input_of(record)})

    def input_of(self, record: Record) -> PredictionInput:
        """Return a record's fields with its row, or with the error in it.

        If the only required role is a list of words, and the record has only a `text`, the text is split into words and punctuation marks.
        """
        if {*record.values} == {"text"} and [role.form for role in self.roles if role.required] == ["texts"]:
            record = record._replace(values={**record.values, "tokens": _WORD.findall(str(record.values["text"]))})
            return PredictionInput(record.values, Columns(self.roles).take(record))
        return PredictionInput(record.values, super().take(record))

    def select_kept(self, available: Iterable[str]) -> list[str]:
        """Return all columns."""
        return list(available)

    def remedy(self, role: Role) -> str:
        """Return the option that names the column of a role, for error messages."""
        return f"{self.option} NAME" if self.option else argument("columns", {role.name: "NAME"})

    def of_texts(self) -> "PredictionColumns":
        """Return columns for rows that are plain texts: the first role that is a text is read from the column `text`. If there is no such
        role, or `takes_lines` is False, return these columns unchanged.
        """
        role = next((role.name for role in self.roles if role.form == "text"), None)
        return self if role is None or not self.takes_lines else replace(self, named={role: "text"})

    def asked(self, value: Mapping[str, Any] | str, place: str) -> PredictionInput:
        """Return the PredictionInput for the fields of a record, whose names may be numbers (pandas' default), or for a plain text."""
        if isinstance(value, str):
            return self.of_texts().input_of(Record({"text": value}, place))
        return self.input_of(Record({str(name): item for name, item in value.items()}, place))


def prediction_rows(source: Source) -> Iterator[PredictionInput]:
    """Yield the rows of a source that has PredictionColumns, including the rows of a file that could not be read."""
    if not isinstance(source, FileSource):
        yield from map(_carried, source.rows())
        return
    for number, path in enumerate(source.paths):
        yield from map(_carried, read_rows(path, source.columns, source.layout, number))


def prediction_stream(content: Content, columns: PredictionColumns, layout: Layout, delimiter: str | None) -> Iterator[PredictionInput]:
    """Yield the rows of a stream that can be read only once, such as standard input. In the format `lines`, blank lines are skipped."""
    rows = map(_carried, read_content(content, columns.of_texts() if layout.format == "lines" else columns, layout, delimiter))
    return (row for row in rows if layout.format != "lines" or str(row.fields.get("text", "?")).strip())


def _carried(row: Row | BadRow) -> PredictionInput:
    """Return the PredictionInput that a row carries; a BadRow is a record that could not be read."""
    carried: PredictionInput = row.values[_CARRIED] if isinstance(row, Row) else PredictionInput({}, row)
    return carried


@dataclass(frozen=True)
class _AllColumns(Columns):
    """Columns that keep all columns of a record, whatever their names and values."""

    beyond_roles = ("everything",)

    def take(self, record: Record) -> Row | BadRow:
        """Return a row whose values are those of the record."""
        return Row("", record.place, record.values)

    def check(self, available: Iterable[str], place: str) -> None:
        """Accept any columns."""

    def select_read(self, available: Iterable[str]) -> list[str]:
        """Return all columns."""
        return list(available)


def first_records(section: SourceSection, on_bad_row: OnBadRow = "error", most: int = FIRST_ROWS) -> list[Record]:
    """Return the first `most` records of a source, or all if there are fewer. Raises DataError if the source cannot be read."""
    return [*all_records(section, on_bad_row, most)]


def all_records(section: SourceSection, on_bad_row: OnBadRow, most: int) -> Iterator[Record]:
    """Yield the records of a source, at most `most`. Raises DataError if the source cannot be read."""
    if section.streamed:  # stream no more rows than are asked for
        section = section.model_copy(update={"rows": min(section.rows or most, most)})
    source = open_source(section, "train", None, on_bad_row, columns=_AllColumns())
    return (Record(row.values or {"text": row.text}, row.place) for row in islice(source.rows(), most))

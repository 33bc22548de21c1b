"""Rows whose answer is asked for: each with all its fields as they were, beside what the objective reads of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import BadRow, Row, Source
from tfkit.data.formats.file_content import Content
from tfkit.data.formats.readers import Layout, read_content, read_rows
from tfkit.data.sources.local_files import FileSource
from tfkit.recipe.schema.roles import Role


class Asked(NamedTuple):
    """A record's fields, none where it could not be read; and its row, or what is wrong with it."""

    fields: Mapping[str, Any]
    row: Row | BadRow


@dataclass(frozen=True)
class AskedColumns(Columns):
    """Columns that keep the whole record."""

    def take(self, record: Record) -> Row:
        """Return a row whose one value is the Asked of the record, which is bad where the row would be."""
        return Row("", record.place, {"": Asked(record.values, super().take(record))})

    def kept(self, found: Iterable[str]) -> list[str]:
        """Return all of them."""
        return list(found)

    def remedy(self, role: Role) -> str:
        """Return how the settings of a prediction name a column for a role."""
        return f"data.validation.0.columns={{{role.name}: NAME}}"

    def of_texts(self) -> "AskedColumns":
        """Return the columns of rows that are a text alone, in the column `text`: it is the first part that is a text."""
        role = next((role.name for role in self.roles if role.form == "text"), None)
        return self if role is None else replace(self, named={role: "text"})

    def asked(self, value: Mapping[str, Any] | str, place: str) -> Asked:
        """Return a row that is given as it is: its fields, or a text alone."""
        if isinstance(value, str):
            return _asked(self.of_texts().take(Record({"text": value}, place)))
        return _asked(self.take(Record(value, place)))


def asked_rows(source: Source) -> Iterator[Asked]:
    """Yield the rows of a source with AskedColumns; of files those that could not be read, too."""
    if not isinstance(source, FileSource):
        yield from map(_asked, source.rows())
        return
    for number, path in enumerate(source.paths):
        yield from map(_asked, read_rows(path, source.columns, source.layout, number))


def asked_content(content: Content, columns: AskedColumns, layout: Layout, delimiter: str | None) -> Iterator[Asked]:
    """Yield the rows of what is no file, and can be read only once; of texts a line each those that are not blank."""
    rows = map(_asked, read_content(content, columns.of_texts() if layout.format == "lines" else columns, layout, delimiter))
    return (row for row in rows if layout.format != "lines" or str(row.fields.get("text", "?")).strip())


def _asked(row: Row | BadRow) -> Asked:
    found: Asked = row.values[""] if isinstance(row, Row) else Asked({}, row)
    return found

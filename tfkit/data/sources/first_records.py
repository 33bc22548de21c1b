"""The first records of a source, with all their columns, from which the columns to read are chosen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tfkit.data.columns.record_columns import Columns, Record
from tfkit.data.columns.rows import FIRST_ROWS, BadRow, OnBadRow, Row
from tfkit.data.sources.open_sources import open_source
from tfkit.recipe.schema.data_sections import SourceSection


@dataclass(frozen=True)
class _AllColumns(Columns):
    """All columns, whatever their names and values."""

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
    """Return the first `most` records, or all if there are fewer. Raise DataError."""
    return [Record(row.values or {"text": row.text}, row.place) for row in islice(_rows(section, on_bad_row, most), most)]


def count_rows(section: SourceSection, on_bad_row: OnBadRow, most_rows: int, most_characters: int) -> tuple[int, int]:
    """Count the rows of a source and their characters, until either reaches its limit. Raise DataError."""
    rows = characters = 0
    for row in _rows(section, on_bad_row, most_rows):
        rows, characters = rows + 1, characters + _characters(row)
        if rows >= most_rows or characters >= most_characters:
            break
    return rows, characters


def _characters(row: Row) -> int:
    return len(row.text) if not row.values else sum(len(str(value)) for value in row.values.values())


def _rows(section: SourceSection, on_bad_row: OnBadRow, most: int) -> Iterator[Row]:
    if section.streamed:  # download no more rows than are read
        section = section.model_copy(update={"rows": min(section.rows or most, most)})
    source = open_source(section, "train", None, on_bad_row, columns=_AllColumns(named={"": "everything"}))
    return source.rows()

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
    return [*all_records(section, on_bad_row, most)]


def all_records(section: SourceSection, on_bad_row: OnBadRow, most: int) -> Iterator[Record]:
    """Yield the records of a source, at most `most`. Raise DataError."""
    if section.streamed:  # download no more rows than are read
        section = section.model_copy(update={"rows": min(section.rows or most, most)})
    source = open_source(section, "train", None, on_bad_row, columns=_AllColumns(named={"": "everything"}))
    return (Record(row.values or {"text": row.text}, row.place) for row in islice(source.rows(), most))

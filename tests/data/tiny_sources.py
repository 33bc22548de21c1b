"""Sources of a path, opened as the tests of data read them."""

from pathlib import Path
from typing import Any

from tfkit.data import Row, Source, open_source
from tfkit.data.columns.rows import PartName
from tfkit.recipe.schema.data_sections import SourceSection
from tfkit.recipe.schema.roles import TEXT, Role


def opened(
    path: Path | str,
    part: PartName = "all",
    fraction: float | None = None,
    roles: tuple[Role, ...] = TEXT,
    skip: bool = False,
    split_by: Any = "input",
    **section: Any,
) -> Source:
    """The source of a path, with what the section says of it."""
    on_bad_row = "skip" if skip else "error"
    return open_source(SourceSection(path=str(path), **section), part, fraction, on_bad_row, roles, split_by=split_by)


def rows(path: Path | str, roles: tuple[Role, ...] = TEXT, **section: Any) -> list[Row]:
    return [*opened(path, roles=roles, **section).rows()]


def texts(path: Path | str, part: PartName = "all", fraction: float | None = None, **section: Any) -> list[str]:
    return [row.text for row in opened(path, part, fraction, **section).rows()]


def values(path: Path | str, roles: tuple[Role, ...] = TEXT, **section: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows(path, roles, **section)]

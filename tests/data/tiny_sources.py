"""Files, and the sources of a path, opened as the tests of data read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit.data import Row, Source, open_source
from tfkit.data.columns.rows import PartName
from tfkit.data.sources.open_sources import training_sources, validation_sources
from tfkit.data.sources.prediction_rows import first_records
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.roles import TEXT, Role


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files by their paths in the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


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


def both_sides(path: Path | str, roles: tuple[Role, ...] = TEXT, validation: Any = 0.5, **section: Any) -> tuple[Source, Source]:
    """Return the sources that are trained on and validated on where a recipe names the path to train on."""
    data = DataSection(train=[SourceSection(path=str(path), **section)], validation=validation)
    [train], [held_out] = training_sources(data, roles), validation_sources(data, roles)
    return train, held_out


def first_values(path: Path | str, **section: Any) -> list[dict[str, Any]]:
    """Return what the first records hold, before anything says which column is what."""
    return [dict(record.values) for record in first_records(SourceSection(path=str(path), **section))]

"""From the section of a recipe to a Source. Errors in the first row are found here, before anything is built."""

from dataclasses import replace

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import OnBadRow, Part, PartName, Source
from tfkit.data.formats.readers import Layout
from tfkit.data.sources.hub_datasets import HubSource
from tfkit.data.sources.hub_stream import StreamedSource
from tfkit.data.sources.local_files import FileSource, find_beside, find_files
from tfkit.data.sources.stdlib import HELD_OUT, StdlibSource
from tfkit.data.sources.stdlib_tasks import StdlibTask
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.roles import TEXT, Role


def open_source(
    section: SourceSection,
    part: PartName,
    fraction: float | None,
    on_bad_row: OnBadRow = "error",
    roles: tuple[Role, ...] = TEXT,
    columns: Columns | None = None,
) -> Source:
    """Find the files or the data set of a section and check the first row. Raise DataError.

    `fraction` of the rows is held out by the hash of their text (of the standard library: whole files, by the hash of their path,
    and without a fraction about 5 %). Files and hub data sets without a fraction are not split: each part is everything. `roles` is what
    is read of each row; `columns`, if given, replaces it and the section's columns.
    """
    columns = columns or Columns(roles, section.columns | ({} if section.text is None else {"text": section.text}))
    if section.stdlib is True:
        return StdlibSource.find(Part(part, HELD_OUT if fraction is None else fraction), on_bad_row)
    source: FileSource | HubSource | StreamedSource | StdlibTask
    if section.stdlib:
        source = StdlibTask.find(section.stdlib, columns, Part(part, HELD_OUT if fraction is None else fraction), on_bad_row)
    elif section.path is not None:
        source = _open_files(section, section.path, columns, Part(part, fraction), on_bad_row)
    else:
        assert section.hub is not None  # the section has exactly one of the three
        dataset = (section.hub, section.config, section.split, section.revision)
        if section.streamed:
            source = StreamedSource.find(*dataset, section.rows, columns, Part(part, fraction), on_bad_row)
        else:
            source = HubSource.load(*dataset, columns, Part(part, fraction), on_bad_row)
    source.check()
    return source


def _open_files(section: SourceSection, pattern: str, columns: Columns, part: Part, on_bad_row: OnBadRow) -> FileSource:
    paths = tuple(find_files(pattern))
    beside = {column: find_beside(other, paths) for column, other in section.beside.items()}
    layout = Layout(section.format, tuple(section.header or ()), beside)
    return FileSource(pattern, paths, replace(columns, beside=tuple(beside)), part, on_bad_row, layout)


def training_sources(data: DataSection, roles: tuple[Role, ...] = TEXT) -> list[Source]:
    """Open the sources to train on, without the held-out part."""
    fraction = data.validation if isinstance(data.validation, float) else None
    return [open_source(section, "train", fraction, data.on_bad_row, roles) for section in data.train]


def validation_sources(data: DataSection, roles: tuple[Role, ...] = TEXT) -> list[Source]:
    """Open the sources to evaluate on: those of data.validation, or the held-out part of data.train; none if the recipe has neither."""
    if data.validation is None:
        return []
    if isinstance(data.validation, float):
        return [open_source(section, "held_out", data.validation, data.on_bad_row, roles) for section in data.train]
    return [open_source(section, "held_out", None, data.on_bad_row, roles) for section in data.validation]

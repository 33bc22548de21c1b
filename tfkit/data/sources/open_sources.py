"""From the section of a recipe to a Source. Errors in the first row are found here, before anything is built."""

from dataclasses import replace
from pathlib import Path

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import OnBadRow, Part, PartName, Source, SplitBy
from tfkit.data.formats.readers import Layout
from tfkit.data.sources.hub_datasets import HubSource
from tfkit.data.sources.hub_stream import StreamedSource
from tfkit.data.sources.local_files import FileSource, find_beside, find_files
from tfkit.data.sources.split_files import divide, require_split, siblings
from tfkit.data.sources.stdlib import HELD_OUT, StdlibSource
from tfkit.data.sources.stdlib_tasks import StdlibTask
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.roles import TEXT, Role


def open_source(
    section: SourceSection,
    part: PartName,
    fraction: float | None,
    on_bad_row: OnBadRow = "error",
    roles: tuple[Role, ...] = TEXT,
    columns: Columns | None = None,
    split_by: SplitBy = "input",
) -> Source:
    """Find the files or the data set of a section and check the first row. Raise DataError.

    `fraction` of the rows is held out by the hash of their input (of the standard library: whole files, by the hash of their path,
    and without a fraction about 5 %). Files and hub data sets without a fraction are not split: each part is everything. Of a folder whose
    files are called train, valid or test, the part `train` has those of training, and `held_out` those of validation, if there are any.
    `roles` is what is read of each row; `columns`, if given, replaces it and the section's columns. `split_by`: of data.split_by.
    """
    columns = columns or Columns(roles, section.columns | ({} if section.text is None else {"text": section.text}))
    if section.stdlib is True:
        return StdlibSource.find(Part(part, HELD_OUT if fraction is None else fraction), on_bad_row)
    source: FileSource | HubSource | StreamedSource | StdlibTask
    if section.stdlib:
        source = StdlibTask.find(section.stdlib, columns, Part(part, HELD_OUT if fraction is None else fraction), on_bad_row)
    elif section.path is not None:
        source = _open_files(section, section.path, columns, Part(part, fraction, split_by), on_bad_row)
    else:
        assert section.hub is not None  # the section has exactly one of the three
        dataset = (section.hub, section.config, section.split, section.revision)
        if section.streamed:
            source = StreamedSource.find(*dataset, section.rows, columns, Part(part, fraction, split_by), on_bad_row)
        else:
            source = HubSource.load(*dataset, columns, Part(part, fraction, split_by), on_bad_row)
    source.check()
    return source


def _open_files(section: SourceSection, pattern: str, columns: Columns, part: Part, on_bad_row: OnBadRow) -> FileSource:
    found = tuple(find_files(pattern))
    beside = {column: find_beside(other, found) for column, other in section.beside.items()}
    paths, part, uses = _used(section, pattern, found, part)
    kept = {column: tuple(other for path, other in zip(found, others, strict=True) if path in paths) for column, others in beside.items()}
    layout = Layout(section.format, tuple(section.header or ()), kept)
    return FileSource(pattern, paths, replace(columns, beside=tuple(beside)), part, on_bad_row, layout, uses)


def _used(section: SourceSection, pattern: str, found: tuple[Path, ...], part: Part) -> tuple[tuple[Path, ...], Part, str]:
    """Return the files of a part, the part of their rows, and what the other files are for. Raise DataError."""
    if section.files == "all" or (section.files is None and part.by == "row"):
        return found, part, ""
    if section.files is not None:
        return require_split(pattern, found, section.files), part, f"the files called {section.files}"
    division = divide(pattern, found)
    if division is None:
        others = siblings(found[0]) if part.name == "train" and len(found) == 1 else []
        return found, part, f"beside it {', '.join(others)}, which are used if the folder is named in its place" if others else ""
    if part.name == "all":
        return found, part, ""
    if part.name == "train":
        is_whole = part.fraction is None or division.validated_on
        uses = division.describe(validates=part.fraction is not None)
        return division.trained_on, Part("train", None, part.by) if is_whole else part, uses
    if division.validated_on:
        return division.validated_on, Part("held_out", None, part.by), "the files called validation"
    if part.fraction is None and division.train:
        raise DataError(f"{pattern}: no file here is called valid; name the files to validate on, or set data.validation to a fraction")
    return (division.trained_on, part, "") if part.fraction is not None else (found, part, "")


def training_sources(data: DataSection, roles: tuple[Role, ...] = TEXT) -> list[Source]:
    """Open the sources to train on, without the held-out part."""
    fraction = data.validation if isinstance(data.validation, float) else None
    return [open_source(section, "train", fraction, data.on_bad_row, roles, split_by=data.split_by) for section in data.train]


def validation_sources(data: DataSection, roles: tuple[Role, ...] = TEXT) -> list[Source]:
    """Open the sources to evaluate on: those of data.validation, or the held-out part of data.train; none if the recipe has neither."""
    if data.validation is None:
        return []
    fraction = data.validation if isinstance(data.validation, float) else None
    sections = data.train if isinstance(data.validation, float) else data.validation
    return [open_source(section, "held_out", fraction, data.on_bad_row, roles, split_by=data.split_by) for section in sections]

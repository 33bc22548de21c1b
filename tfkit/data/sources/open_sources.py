"""Opening of the sources that a recipe describes. A bad row among a source's first rows is an error here, unless bad rows are skipped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import OnBadRow, Part, PartName, Source, SplitBy
from tfkit.data.formats.detection import detect_header
from tfkit.data.formats.readers import Layout
from tfkit.data.formats.suffixes import CODE_SUFFIXES, FORMAT_OF, column_in, is_archive, list_names, suffix_of
from tfkit.data.sources.archives import member_names
from tfkit.data.sources.derived_rows import UNPAIRED, drawn_rows, joined_rows
from tfkit.data.sources.hub_datasets import HubSource, StreamedSource, load_dataset
from tfkit.data.sources.local_files import FileSource, find_beside, find_files
from tfkit.data.sources.split_files import (
    Named,
    Split,
    SplitFiles,
    files_by_split,
    json_arrays,
    keys_by_split,
    members_by_split,
    siblings,
    split_of,
)
from tfkit.errors import DataError
from tfkit.recipe.schema.data_sections import DataSection, SourceSection
from tfkit.recipe.schema.roles import TEXT, Role

if TYPE_CHECKING:
    from tfkit.data.sources.parallel_files import ParallelFiles

_FILES_PER_CLASS = 5  # folders are classes only if they have at least this many texts on average


def open_source(
    section: SourceSection,
    part: PartName,
    fraction: float | None,
    on_bad_row: OnBadRow = "error",
    roles: tuple[Role, ...] = TEXT,
    columns: Columns | None = None,
    split_by: SplitBy = "input",
) -> Source:
    """Open the source of a recipe's section. Raises DataError if nothing is found, a first row is bad and not skipped, or no row is good.

    A `fraction` of the rows is held out, by the hash of their input; if rows are few whole files, the end of each. With None, each part
    is the whole source. Of the standard library, whole files are held out, by the hash of their path (about 5 % if `fraction` is None). If
    files of a folder or archive are called train, valid or test, the part `train` has the training files, and `held_out` the validation
    files, if there are any. `columns`: used instead of `roles` and the section's columns. `split_by`: what is hashed, input or row.
    """
    columns = columns or Columns(roles, section.columns | ({} if section.text is None else {"text": section.text}))
    if section.class_names is not None:
        from tfkit.data.sources.parallel_files import read_class_names

        columns = replace(columns, class_names=read_class_names(section.class_names))
    source: Source
    if section.stdlib:
        from tfkit.data.sources.stdlib import HELD_OUT, StdlibSource, StdlibTask

        of_files = Part(part, HELD_OUT if fraction is None else fraction)
        if section.stdlib is True:
            return StdlibSource.find(of_files, on_bad_row)
        source = StdlibTask.find(section.stdlib, columns, of_files, on_bad_row)
    elif section.path is not None:
        source = _open_files(section, section.path, columns, Part(part, fraction, split_by), on_bad_row)
    else:
        assert section.hub is not None, "a section has exactly one of stdlib, path and hub"
        dataset = (section.hub, section.config, section.split, section.revision)
        if section.streamed:
            source = StreamedSource(*dataset, section.rows, columns, Part(part, fraction, split_by), on_bad_row)
        else:
            source = HubSource(section.hub, section.split, columns, Part(part, fraction, split_by), load_dataset(*dataset), on_bad_row)
    source.check()
    return source


def _open_files(section: SourceSection, pattern: str, columns: Columns, part: Part, on_bad_row: OnBadRow) -> FileSource:
    recognises = part.by == "input"
    all_paths = paths = tuple(find_files(pattern, recognises=recognises))
    beside = {column: find_beside(parallel, all_paths) for column, parallel in section.beside.items()}
    parallel = _find_parallel(section, pattern, all_paths, columns) if recognises else None
    if parallel is not None:
        from tfkit.data.sources.parallel_files import read_class_names

        section = section.model_copy(update={"format": "lines", "header": [parallel.first]})
        all_paths = paths = parallel.columns[parallel.first]
        beside = {column: files for column, files in parallel.columns.items() if column != parallel.first}
        columns = columns if columns.class_names else replace(columns, class_names=read_class_names(parallel.class_names))
    keys: tuple[str, ...] = () if section.field is None else (section.field,)
    uses = ""
    names = [[named] if isinstance(named, str) else named for named in (*section.columns.values(), section.text or "")]
    numbered = any(name.isdecimal() for of_role in names for name in of_role)
    array_columns: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    if recognises and not keys and (key_groups := keys_by_split(arrays := json_arrays(all_paths))):
        array_columns = detect_header(arrays.first_rows, columns, numbered=numbered)
        all_keys = tuple(key for group in key_groups.values() for key in group)
        keys, part, uses = _select_split(section, pattern, all_keys, key_groups, part)
    elif recognises and (member_groups := members_by_split(all_paths)):
        only, part, uses = _select_split(section, pattern, (), member_groups, part)
    elif section.files not in (None, "all") or not Path(pattern).expanduser().is_file():
        groups = files_by_split(pattern, all_paths, may_be_code=parallel is None)
        paths, part, uses = _select_split(section, pattern, all_paths, groups, part)
    elif recognises and part.name == "train" and (others := siblings(all_paths[0], of_column=parallel is not None)):
        uses = f"beside it {', '.join(others)}, which {'are' if len(others) > 1 else 'is'} used if the folder is named in its place"
    uses = "; ".join(filter(None, [parallel.describe() if parallel else "", uses]))
    kept = {column: tuple(file for path, file in zip(all_paths, files, strict=True) if path in paths) for column, files in beside.items()}
    folders = _class_folders(Path(pattern).expanduser(), paths, all_paths, only, columns) if recognises and section.format is None else []
    if folders:
        uses = "; ".join(filter(None, [uses, f"the classes {list_names(folders)}, by folder"]))
    layout = Layout(section.format, tuple(section.header or ()), kept, keys, array_columns, recognises, numbered, bool(folders), only)
    return FileSource(pattern, paths, replace(columns, beside=tuple(beside)), part, on_bad_row, layout, uses)


def _class_folders(root: Path, paths: Sequence[Path], all_paths: Sequence[Path], only: Sequence[str], columns: Columns) -> list[str]:
    """Return the names of the folders if they are the classes of their texts, else an empty list. They are classes if a role reads the
    column `folder`, all files are texts, there are several folders, none is named after a split, and a folder has 5 or more texts on
    average, in the split that is read or in all splits together. `paths`: the files that are read; `only`: those in an archive, if not all.
    """
    if "folder" not in columns.select_read(["text", "folder"]) or not (root.is_dir() or (root.is_file() and is_archive(root))):
        return []
    groups: list[Sequence[PurePath]]  # the files that are read, and those of all splits
    if root.is_dir():
        groups = [[path.relative_to(root) for path in group] for group in (paths, all_paths)]
    else:
        members = member_names(root)[0]
        groups = [[*map(PurePath, group)] for group in (only or members, members)]
    names = groups[0]
    folders = {name.parent.name for name in names}
    are_texts = not any(suffix_of(name) in (*FORMAT_OF, *CODE_SUFFIXES) or is_archive(name) for name in names)
    are_classes = len(folders) > 1 and not any(folder == "" or split_of(PurePath(folder)) for folder in folders)
    have_several = any(len(group) >= _FILES_PER_CLASS * len({name.parent for name in group}) for group in groups)
    return sorted(folders) if are_texts and are_classes and have_several else []


def _find_parallel(section: SourceSection, pattern: str, paths: tuple[Path, ...], columns: Columns) -> "ParallelFiles | None":
    """Return the parallel files of a source; None if it has none, or if the recipe describes the layout of its files.

    If a row is only a text, a single named file is read without the files beside it, and files in several languages are separate texts.
    """
    described = (section.format, section.header, section.field) != (None, None, None) or section.beside
    of_text = columns.roles == TEXT and not columns.beyond_roles
    if described or (of_text and len(paths) == 1) or not any(map(column_in, paths)):
        return None
    from tfkit.data.sources.parallel_files import find_parallel

    return find_parallel(pattern, paths, of_languages=not of_text)


def _select_split(
    section: SourceSection, pattern: str, items: tuple[Named, ...], groups: Mapping[Split | None, Sequence[Named]], part: Part
) -> tuple[tuple[Named, ...], Part, str]:
    """Return the files (or members of an archive, or keys of a JSON object) that a part of the source reads, the part of their rows that is
    read, and a description of their use. Raises DataError if the split that is asked for has no file.
    """
    if section.files == "all" or (section.files is None and (part.by == "row" or part.name == "all" or len(groups) < 2)):
        return items, part, ""
    if section.files is not None:
        if section.files not in groups:
            raise DataError(f"{pattern}: nothing here is called {section.files}; name the files, or read all of them with files: all")
        return tuple(groups[section.files]), part, f"{list_names(groups[section.files])}, called {section.files}"
    division = SplitFiles.of(groups)
    if part.name == "train":
        is_whole = part.fraction is None or division.validated_on
        uses = division.describe(validates=part.fraction is not None)
        return division.trained_on, Part("train", None, part.by) if is_whole else part, uses
    if division.validated_on:
        return division.validated_on, Part("held_out", None, part.by), f"{list_names(division.validated_on)}, called validation"
    if part.fraction is None and division.train:
        raise DataError(f"{pattern}: nothing here is called valid; name what to validate on, or set data.validation to a fraction")
    return (division.trained_on, part, "") if part.fraction is not None else (items, part, "")


def training_sources(data: DataSection, roles: tuple[Role, ...] = TEXT, seed: int = 0) -> list[Source]:
    """Open the training sources, without the held-out part. `seed`: draws the rows if data.rows limits their number."""
    return _open_part(data, data.train, "train", roles, seed)


def _open_part(data: DataSection, sections: Sequence[SourceSection], part: PartName, roles: tuple[Role, ...], seed: int) -> list[Source]:
    """Open a part of each source. If the roles allow rows with a single labelled completion, such rows are joined by their prompt. If
    data.rows is set, only that many rows of each source are drawn.
    """
    fraction = data.validation if isinstance(data.validation, float) else None
    sources = [open_source(section, part, fraction, data.on_bad_row, roles, split_by=data.split_by) for section in sections]
    if any(role.shape == UNPAIRED for role in roles):
        sources = [joined_rows(source) for source in sources]
    return [drawn_rows(source, data.rows, seed) for source in sources] if data.rows is not None else sources


def pretraining_sources(data: DataSection) -> list[Source]:
    """Open the sources of pretraining text that is mixed into the steps of another objective; empty if the recipe has none."""
    return [open_source(section, "train", None, data.on_bad_row, split_by=data.split_by) for section in data.pretraining or ()]


def validation_sources(data: DataSection, roles: tuple[Role, ...] = TEXT, seed: int = 0) -> list[Source]:
    """Open the validation sources: those of data.validation, or the held-out part of data.train; empty if data.validation is null."""
    if data.validation is None:
        return []
    sections = data.train if isinstance(data.validation, float) else data.validation
    return _open_part(data, sections, "held_out", roles, seed)

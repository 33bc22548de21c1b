"""Parallel files, recognised by their names: one row on each line, one column in each file, as `train_text.txt` beside `train_labels.txt`
(TweetEval), `train.src` beside `train.tgt`, `train.en` beside `train.de`, `seq.in` beside `seq.out` (ATIS). A recipe names parallel files
with other names by `format: lines` and `beside`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from tfkit.data.columns.rows import BadRow
from tfkit.data.formats.file_content import content_of, decode, opened, raw_lines, reading
from tfkit.data.formats.suffixes import FORMAT_OF, column_in, is_archive, is_hidden, is_readme, is_searched, list_names, suffix_of
from tfkit.data.sources.local_files import files_beside, walk
from tfkit.errors import DataError
from tfkit.recipe.column_forms import LANGUAGES

_SETS = (("text", "label"), ("source", "target"), ("tokens", "tags"))
MAPPING = "mapping.txt"  # TweetEval's file of class names


@dataclass(frozen=True)
class ParallelFiles:
    """The files of each column, in the same order: line n of the i-th file of each column belongs to the same row."""

    columns: Mapping[str, tuple[Path, ...]]
    others: tuple[Path, ...] = ()  # the files of the folder or glob that might be data and are not read; none beside a single file

    @property
    def first(self) -> str:
        """The first column: the text, the source, the tokens, or a language (if the user names a single file, its language)."""
        return next(iter(self.columns))

    @property
    def class_names(self) -> Path | None:
        """The file with the names of the classes; None if there is none, or no column `label`."""
        folder = self.columns[self.first][0].parent
        found = [path for path in (folder / MAPPING, folder.parent / MAPPING) if path.is_file()]
        return found[0] if found and "label" in self.columns else None

    def describe(self) -> str:
        """Return a description, for messages: the columns, and the files beside them that are not read."""
        about = f"parallel files, a row on each line: {', '.join(self.columns)}"
        about += f"; class names of {MAPPING}" if self.class_names else ""
        return about + (f"; beside them {list_names(self.others)}, not read" if self.others else "")


def find_parallel(pattern: str, paths: Sequence[Path], *, of_languages: bool) -> ParallelFiles | None:
    """Return the parallel files of a folder or a glob, or a single file with those parallel to it; None if the files are not parallel.

    `paths`: the files that the pattern matches; for a folder or file, all files of the folder are considered instead. `of_languages`: files
    in several languages are parallel, too, if they have equal numbers of lines.
    """
    named = paths[0] if len(paths) == 1 and Path(pattern).expanduser().is_file() else None
    folder = named.parent if named is not None else Path(pattern).expanduser()
    if folder.is_dir():
        with reading(folder):
            files = files_beside(named) if named is not None else walk(folder)
            paths = [path for path in files if path.is_file() and not is_hidden(path.relative_to(folder))]
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(paths):
        if (word := column_in(path)) is not None:
            groups.setdefault((path.parent, word[0]), {})[word[1]] = path
        elif named is None and (suffix_of(path) in FORMAT_OF or is_archive(path)):
            return None  # this file has columns of its own
    sets = [columns for group in groups.values() if (columns := _set_of(group, of_languages=of_languages))]
    if named is not None:  # only the set of the named file; none if that file has the labels
        sets = [columns for columns in sets if named in columns.values() and named != columns.get("label")]
    if not sets:
        return None
    common = [column for column in sets[0] if all(column in columns for columns in sets)]
    others = [path for path in paths if all(path not in columns.values() for columns in sets)]
    others = [path for path in others if is_searched(PurePath(path.name)) or column_in(path)]
    others = [path for path in others if not is_readme(path) and path.name != MAPPING]
    if len(common) < 2 or (named is None and others and common[0] in LANGUAGES):  # translations beside other texts are no parallel corpus
        return None
    first = next((column for column in common if named is not None and sets[0][column] == named and column in LANGUAGES), common[0])
    in_order = sorted(common, key=lambda column: column != first)
    return ParallelFiles(
        {column: tuple(columns[column] for columns in sets) for column in in_order}, () if named is not None else tuple(others)
    )


def _set_of(group: Mapping[str, Path], *, of_languages: bool) -> dict[str, Path] | None:
    """Return the file of each column in a group of files whose names differ only in the column; None if the files are not parallel."""
    for columns in _SETS:
        if all(column in group for column in columns):
            return {column: group[column] for column in columns}
    languages = {column: path for column, path in group.items() if column in LANGUAGES}
    if not of_languages or len(languages) < 2 or len({_count_lines(path) for path in languages.values()}) > 1:
        return None
    return languages


def _count_lines(path: Path) -> int:
    with reading(path):
        status = os.stat(path)
    return _counted(path, status.st_size, status.st_mtime_ns)


@lru_cache(1024)
def _counted(path: Path, _size: int, _changed: int) -> int:
    """Return the number of lines in a file. The size and the time of the last change only serve as parts of the cache's key."""
    with opened(content_of(path)) as file:
        return sum(1 for _ in file)


def read_class_names(given: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Return the names of the classes 0, 1 and so on. `given`: a list of names, or a file with a name on each line, alone or after its
    number. Columns after a number and a name are ignored. Raises DataError if the file cannot be read, or its numbers are not 0, 1 ...
    """
    if given is None or isinstance(given, list | tuple):
        return tuple(given or ())
    path = Path(os.path.expanduser(str(given)))
    lines: list[str] = []
    for line in map(decode, raw_lines(content_of(path))):
        if isinstance(line, BadRow):
            raise DataError(line.message)
        lines.append(line)
    rows = [re.split(r"[\t ]+", line.strip(), maxsplit=1) for line in lines if line.strip()]
    if all(len(row) == 2 and row[0].isdecimal() for row in rows):
        names = {int(number): rest.split("\t")[0].strip() for number, rest in rows}
        if sorted(names) != [*range(len(rows))]:
            raise DataError(f"{path}: the numbers of the classes are not 0 to {len(rows) - 1}, each once; correct the file")
        return tuple(names[number] for number in range(len(rows)))
    return tuple(line.strip() for line in lines if line.strip())

"""Splits by name: the files of a folder, glob or archive, or the keys of a JSON object, called train, valid (validation, val, dev) or test.

As in data sets of the hub, such a word may be anywhere in the name of the file or of its folder: `train-00000-of-00004.parquet`,
`SNLI_dev.csv`, `data/test/a.jsonl`. Source code is excluded: a file called test.py is no test split.
"""

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Generic, Literal, TypeVar

from tfkit.data.formats.detection import detect_json_lines
from tfkit.data.formats.file_content import content_of
from tfkit.data.formats.json_files import Arrays, arrays_in
from tfkit.data.formats.suffixes import CODE_SUFFIXES, column_in, is_archive, list_names, suffix_of
from tfkit.data.sources.archives import member_names
from tfkit.data.sources.local_files import files_beside, find_files
from tfkit.errors import DataError

Split = Literal["train", "validation", "test"]
Named = TypeVar("Named", Path, str)
_WORD = re.compile(r"(?:(train|training)|(valid|validation|val|dev|devel|development)|(test|testing))(?:set|data)?[0-9]*")
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitFiles(Generic[Named]):
    """The files of a folder or archive, or the keys of a JSON object, by split. `others`: those whose names show no split, or several."""

    train: tuple[Named, ...]
    validation: tuple[Named, ...]
    test: tuple[Named, ...]
    others: tuple[Named, ...]

    @classmethod
    def of(cls, groups: "Mapping[Split | None, Sequence[Named]]") -> "SplitFiles[Named]":
        """Create the object from the files or keys of each split; those under None become the others."""
        return cls(*(tuple(groups.get(split, ())) for split in (*_SPLITS, None)))

    @property
    def trained_on(self) -> tuple[Named, ...]:
        """The training files; if there are none, the other files, or else the validation files."""
        return self.train or self.others or self.validation

    @property
    def validated_on(self) -> tuple[Named, ...]:
        """The validation files; empty if the run trains on them."""
        return self.validation if self.trained_on is not self.validation else ()

    def describe(self, *, validates: bool) -> str:
        """Return a description of what each split is used for; `validates`: whether the run validates on the validation files."""
        unread = () if self.trained_on is self.others else self.others
        parts = [f"{list_names(self.trained_on)} to train on"]
        parts += [f"{list_names(self.validated_on)} {'to validate on' if validates else 'not trained on'}"] if self.validated_on else []
        parts += [f"{list_names(self.test)} kept for tfkit evaluate"] if self.test else []
        parts += [f"{list_names(unread)} not read"] if unread else []
        return "by their names " + ", ".join(parts)


def split_of(name: PurePath, *, may_be_code: bool = True) -> Split | None:
    """Return the split that is named by a word in the file's name, or else in the name of the nearest folder with such a word. None if no
    name has such a word, if that name has words for several splits, or if `may_be_code` and the suffix is that of source code.
    """
    if may_be_code and suffix_of(name) in CODE_SUFFIXES:
        return None
    for part in reversed(name.parts):
        words = re.split(r"[^a-z0-9]+", part.lower())
        splits = {_SPLITS[match.lastindex - 1] for word in words if (match := _WORD.fullmatch(word)) and match.lastindex}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


def evaluated_files(pattern: str) -> str:
    """Return the value of the recipe's `files` for an evaluation: `test` if files are called so, and others are not; else `validation` if
    files are called so, and others are training files or have no split; else `all`.
    """
    with suppress(DataError):  # opening the source raises the same error again
        paths = find_files(pattern)
        groups: Mapping[Split | None, Sequence[object]] = (
            keys_by_split(json_arrays(paths)) or members_by_split(paths) or files_by_split(pattern, paths)
        )
        if "test" in groups and len(groups) > 1:
            return "test"
        return "validation" if "validation" in groups and (None in groups or "train" in groups) else "all"
    return "all"


def files_by_split(pattern: str, paths: Sequence[Path], *, may_be_code: bool = True) -> dict[Split | None, list[Path]]:
    """Return the files of a folder or glob by split; a single file has no split. `may_be_code`: a suffix such as .pl is that of source
    code, which has no split (train.pl is a program); if False, the suffix is a language (train.pl is a Polish text).
    """
    if Path(pattern).expanduser().is_file():
        return {None: [*paths]}
    root = _root(pattern)
    return _grouped(paths, lambda path: split_of(path.relative_to(root), may_be_code=may_be_code))


def members_by_split(paths: Sequence[Path]) -> dict[Split | None, list[str]]:
    """Return the names of the files in a single archive by split; empty for other paths, and if all files have one split or none."""
    names = member_names(paths[0])[0] if len(paths) == 1 and is_archive(paths[0]) else []
    groups = _grouped(names, lambda name: split_of(PurePath(name)))
    return groups if len(groups) > 1 else {}


def keys_by_split(arrays: Arrays) -> dict[Split | None, list[str]]:
    """Return the keys of a JSON object's arrays by split; empty if all have one split, unless the only array is an array of arrays."""
    groups = _grouped(arrays.keys, lambda key: split_of(PurePath(f"{key}.json")))
    return groups if len(groups) > 1 or (len(arrays.keys) == 1 and arrays.first_rows) else {}


def _grouped(items: Iterable[Named], split: Callable[[Named], Split | None]) -> dict[Split | None, list[Named]]:
    groups: dict[Split | None, list[Named]] = {}
    for item in items:
        groups.setdefault(split(item), []).append(item)
    return groups


def json_arrays(paths: Sequence[Path]) -> Arrays:
    """Return the arrays in a single JSON file that holds an object; no arrays for other files, or for JSON lines."""
    is_one = len(paths) == 1 and suffix_of(paths[0]) == ".json" and not detect_json_lines(content_of(paths[0]))
    return arrays_in(content_of(paths[0])) if is_one else Arrays([], [])


def siblings(path: Path, *, of_column: bool) -> list[str]:
    """Return the names of the validation and test files beside a file that is called train, if they differ from it only in numbers and in
    the word for the split. `of_column`: the file is one of several parallel files, so only files with the same column are returned.
    """
    if split_of(PurePath(path.name)) != "train":
        return []
    others = sorted(
        other.name for other in files_beside(path) if suffix_of(other) == suffix_of(path) and _but_split(other) == _but_split(path)
    )
    names = [name for name in others if split_of(PurePath(name)) in ("validation", "test")]
    return [name for name in names if not of_column or _column(PurePath(name)) == _column(path)]


def _but_split(path: Path) -> str:
    """Return the name of a file without numbers and the word of its split. It is the same for the files of all splits of a data set."""
    return re.sub(r"[a-z]+", lambda match: "" if _WORD.fullmatch(match[0]) else match[0], re.sub(r"[0-9]+", "", path.name.lower()))


def _column(path: PurePath) -> str | None:
    word = column_in(path)
    return word and word[1]


def _root(pattern: str) -> Path:
    """Return `pattern` itself if it is a folder, else the folders of the glob before its wildcards."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return path
    magic = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[:magic])

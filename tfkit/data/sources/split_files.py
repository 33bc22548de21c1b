"""The files of a folder or glob that are called train, valid (validation, val, dev) or test, and which of them a source reads.

As of the Hub's data sets, the word may be anywhere in the name, or be that of a folder: `train-00000-of-00004.parquet`, `SNLI_dev.csv`,
`data/test/a.jsonl`. Files of code are called test.py for other reasons.
"""

import glob
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from tfkit.data.formats.suffixes import TEXT_SUFFIXES, suffix_of
from tfkit.data.sources.local_files import find_files
from tfkit.errors import DataError

Split = Literal["train", "validation", "test"]
_WORD = re.compile(r"(?:(train|training)|(valid|validation|val|dev|devel|development)|(test|testing))(?:set|data)?[0-9]*")
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_CODE = TEXT_SUFFIXES - {".txt", ".text"}
_MOST_NAMES = 3


@dataclass(frozen=True)
class SplitFiles:
    """The files of a folder by what they are called; `others` have no such word in their names."""

    train: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def trained_on(self) -> tuple[Path, ...]:
        """Those to train on: where none is called so, the ones without a word, else those of validation."""
        return self.train or self.others or self.validation

    @property
    def validated_on(self) -> tuple[Path, ...]:
        """Those of validation, if they are not trained on; else none."""
        return self.validation if self.trained_on is not self.validation else ()

    def describe(self, *, validates: bool) -> str:
        """Describe what each is used for; `validates`: whether those of validation are."""
        unread = () if self.trained_on is self.others else self.others
        parts = [f"{_names(self.trained_on)} to train on"]
        parts += [f"{_names(self.validated_on)} {'to validate on' if validates else 'not trained on'}"] if self.validated_on else []
        parts += [f"{_names(self.test)} kept for tfkit evaluate"] if self.test else []
        parts += [f"{_names(unread)} not read"] if unread else []
        return "by their names " + ", ".join(parts)


def split_of(name: PurePath) -> Split | None:
    """Return the split that a file is called by: in its own name, else in that of the nearest folder. None: no word, or several."""
    if suffix_of(name) in _CODE:
        return None
    for part in reversed(name.parts):
        words = re.split(r"[^a-z0-9]+", part.lower())
        found = {_SPLITS[match.lastindex - 1] for word in words if (match := _WORD.fullmatch(word)) and match.lastindex}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def divide(pattern: str, paths: Sequence[Path]) -> SplitFiles | None:
    """Divide the files of a folder or glob by their names; None for a single file, and where the names are all of one kind."""
    if Path(pattern).expanduser().is_file():
        return None
    groups = _by_split(pattern, paths)
    return SplitFiles(*(tuple(groups.get(split, ())) for split in (*_SPLITS, None))) if len(groups) > 1 else None


def evaluated_files(pattern: str) -> str:
    """Return the `files` of a source that is scored: test, else validation, else all."""
    with suppress(DataError):  # which is raised where the source is read
        if division := divide(pattern, find_files(pattern)):
            return "test" if division.test else "validation" if division.validated_on else "all"
    return "all"


def require_split(pattern: str, paths: Sequence[Path], split: Split) -> tuple[Path, ...]:
    """Return the files of one split, whether there are others or not. Raise DataError if there are none."""
    found = _by_split(pattern, paths).get(split)
    if found is None:
        raise DataError(f"{pattern}: no file here is called {split}; name the files, or read all of them with files: all")
    return tuple(found)


def _by_split(pattern: str, paths: Sequence[Path]) -> dict[Split | None, list[Path]]:
    root = _root(pattern)
    groups: dict[Split | None, list[Path]] = {}
    for path in paths:
        groups.setdefault(split_of(path.relative_to(root)), []).append(path)
    return groups


def siblings(path: Path) -> list[str]:
    """Return the names of the files of other splits beside a file that is called train."""
    if split_of(PurePath(path.name)) != "train":
        return []
    beside = sorted(other.name for other in path.parent.iterdir() if suffix_of(other) == suffix_of(path))
    return [name for name in beside if split_of(PurePath(name)) in ("validation", "test")]


def _root(pattern: str) -> Path:
    """Return the folder, that of a file, or that of a glob which is named without wildcards."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    magic = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[:magic])


def _names(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths[:_MOST_NAMES]]
    return ", ".join(names) + (f" and {len(paths) - _MOST_NAMES} more" if len(paths) > _MOST_NAMES else "")

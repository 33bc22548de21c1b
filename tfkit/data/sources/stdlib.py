"""The standard library of the running Python as a corpus: real code under a free licence, on every machine, without a network."""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import OnBadRow, Part, Row, Skipped, fingerprint_of, good_rows, megabytes
from tfkit.data.formats.file_content import reading
from tfkit.data.formats.readers import read_rows
from tfkit.errors import DataError

HELD_OUT = 0.05  # fraction of files, if the recipe gives none

# Tests and codec tables are repetitive; pydoc_data is generated; site-packages is not the standard library.
EXCLUDED = frozenset({"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class StdlibSource:
    """Every *.py file, sorted by path, as a row each; files are held out by the hash of their path."""

    root: Path
    paths: tuple[str, ...]  # the files of this part, as posix paths relative to the root
    files_found: int
    size_bytes: int
    part: Part
    on_bad_row: OnBadRow = "error"
    name: str = "stdlib"

    @classmethod
    def find(cls, part: Part, on_bad_row: OnBadRow, root: Path | None = None) -> "StdlibSource":
        """Find the files of the part. Raise DataError if Python was installed without sources."""
        root = root or Path(sysconfig.get_path("stdlib"))
        paths = sorted(path.relative_to(root).as_posix() for path in _python_files(root) if _is_source(path, root))
        if not paths:
            raise DataError(f"{root}: no *.py files of the standard library here; use another Python, or a path or hub source")
        kept = tuple(path for path in paths if part.keeps(path.encode()))
        return cls(root, kept, len(paths), sum((root / path).stat().st_size for path in kept), part, on_bad_row)

    def describe(self) -> str:
        """Describe files, MB and part."""
        about = f"standard library of Python {platform.python_version()}: {len(self.paths)} files, {megabytes(self.size_bytes)}"
        if self.part.name == "all":
            return about
        which = "held out" if self.part.name == "held_out" else "the training part"
        return f"{about} ({which} of {self.files_found} files)"

    def fingerprint(self) -> str:
        """Return a hash of the paths and contents of the part's files, and of the handling of bad rows."""
        digest = hashlib.blake2b(f"stdlib{fingerprint_of(self.on_bad_row)}".encode(), digest_size=16)
        for path in self.paths:
            with reading(self.root / path):
                content = (self.root / path).read_bytes()
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def rows(self, skipped: dict[str, Skipped] | None = None) -> Iterator[Row]:
        """Yield each file's whole text."""
        return good_rows((row for path in self.paths for row in read_rows(self.root / path, Columns())), self.on_bad_row, skipped)


def _python_files(root: Path) -> Iterator[Path]:
    """Yield every *.py file below the root, without entering excluded folders: site-packages may be large."""
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in EXCLUDED]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _is_source(path: Path, root: Path) -> bool:
    return EXCLUDED.isdisjoint(path.relative_to(root).parts[:-1]) and path.is_file()

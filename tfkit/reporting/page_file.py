"""The file of the page: written atomically, and only a new file or over an earlier page."""

from collections.abc import Iterable
from pathlib import Path

from tfkit.durable import write_atomically
from tfkit.errors import MachineError, UsageError
from tfkit.regular_files import open_regular
from tfkit.reporting.html_page import GENERATOR
from tfkit.run.manifest import NAME
from tfkit.run.refused_folders import WRITTEN


def check_page_path(path: Path, runs: Iterable[Path]) -> None:
    """Raise UsageError for a path that is a folder, another file than a page, or inside a run or a checkpoint."""
    if path.is_dir():
        raise UsageError(f"--html {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"--html {path}: there is no folder {path.parent}; make it, or give another path")
    place = path.parent.resolve() / path.name
    if any((folder / NAME).exists() for folder in place.parents):
        raise UsageError(f"--html {path}: is in a checkpoint, which has only the files in its manifest; give another path")
    for run in runs:
        if place.is_relative_to(run.resolve()) and place.relative_to(run.resolve()).parts[0] in WRITTEN:
            raise UsageError(f"--html {path}: belongs to the run {run}; give another name")
    if path.exists() and not _is_page(path):
        raise UsageError(f"--html {path}: exists, and is not a page of tfkit report; give another name, or delete it")


def write_page(path: Path, text: str) -> None:
    """Write the page. Raises MachineError if the file cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise MachineError(f"--html {path}: cannot be written ({error.strerror}); give another path, or check the disk") from error


def _is_page(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return f'name="generator" content="{GENERATOR}"'.encode() in file.read(4096)
    except OSError:
        return False

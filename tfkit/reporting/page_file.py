"""The file of a page: a new one or an earlier page, replaced atomically, or a device, a pipe or a link."""

from pathlib import Path

from tfkit.durable import is_replaceable, write_atomically
from tfkit.errors import MachineError, UsageError, argument
from tfkit.regular_files import open_regular


def check_page_path(path: Path, generator: str) -> None:
    """Raise UsageError for a path that is a folder, or a file with other content than a page of this command."""
    if path.is_dir():
        raise UsageError(f"{argument('html', path)}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"{argument('html', path)}: there is no folder {path.parent}; make it, or give another path")
    if path.is_file() and path.stat().st_size and not _is_page(path, generator):
        raise UsageError(f"{argument('html', path)}: exists, and is not a page of {generator}; give another name, or delete it")


def write_page(path: Path, text: str) -> None:
    """Write the page. Raises MachineError if the file cannot be written."""
    try:
        if is_replaceable(path):
            write_atomically(path, text)
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise MachineError(
            f"{argument('html', path)}: cannot be written ({error.strerror}); give another path, or check the disk"
        ) from error


def _is_page(path: Path, generator: str) -> bool:
    try:
        with open_regular(path) as file:
            return f'name="generator" content="{generator}"'.encode() in file.read(4096)
    except OSError:
        return False

"""A folder that appears under its name whole, with its manifest, or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tfkit.run.durable import sync_file, sync_folder, temporary_sibling
from tfkit.run.manifest import regular_files, write_manifest


def take_new_name(temporary: Path, final: Path) -> None:
    """Rename; raises OSError if there is something under the name by now."""
    temporary.rename(final)
    sync_folder(final.parent)


def write_folder(final: Path, write: Callable[[Path], None], take_name: Callable[[Path, Path], None] = take_new_name) -> None:
    """Make `final` from what `write` puts into the empty folder it is given, and let `take_name` rename that when all is on the disk.

    Raises what these raise; then no trace is left.
    """
    temporary = temporary_sibling(final)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in regular_files(temporary):
            sync_file(path)
        write_manifest(temporary)
        for place, _, _ in os.walk(temporary, topdown=False):
            sync_folder(Path(place))
        take_name(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

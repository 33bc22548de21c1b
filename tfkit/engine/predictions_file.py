"""The file of the predictions of an evaluation: it is known to be writable before anything is computed."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfkit.durable import write_atomically
from tfkit.engine.listener import StopRequest
from tfkit.errors import MachineError
from tfkit.run import strict_json


def require_writable(path: Path) -> None:
    """Raise MachineError for a path that cannot be written."""
    try:
        folder = path.absolute().parent
        if not folder.is_dir():
            raise MachineError(f"{path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise MachineError(f"{path}: is a folder; --predictions takes the name of a file")
        written = path if path.exists() and not _takes_a_new_file(path) else path.resolve().parent
        if not written.exists():
            raise FileNotFoundError(errno.ENOENT, f"it leads to {path.resolve()}, and there is no such folder")
        if not os.access(written, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); give another place for --predictions") from error


def write_predictions(path: Path, predictions: Iterable[dict[str, Any]], stop: StopRequest) -> None:
    """Write a JSON line for each, in order. A pipe may have no reader yet, or a slow one: a signal ends that."""
    text = "".join(strict_json.dumps(one) + "\n" for one in predictions)
    try:
        if _takes_a_new_file(path):
            write_atomically(path, text)
        else:
            with stop.at_once("the result is given, the predictions are not all written"):
                path.write_text(text, encoding="utf-8", newline="\n")
    except BrokenPipeError:
        return  # its reader has had enough
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); give another place for --predictions") from error


def _takes_a_new_file(path: Path) -> bool:
    """Whether a new file may take the name; not that of a device, of a pipe or of a link."""
    return not path.is_symlink() and (path.is_file() or not path.exists())

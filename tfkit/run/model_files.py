"""Read the files of an untrusted model folder: only regular files inside the folder, only up to a limit of size, and only strict JSON."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit.errors import ModelError, OtherVersionError
from tfkit.run import strict_json

MIB = 1 << 20


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name`; None if it does not exist. Raises ModelError for a link to nothing or out of the folder, and
    for a file that is not regular. Links in the Hub's cache, from snapshots/... to blobs/ of the same repository, are allowed.
    """
    path = folder / name
    try:
        if not os.path.lexists(path):
            return None
        root, target = folder.resolve(), path.resolve()
        mode = target.stat().st_mode
    except FileNotFoundError:
        raise ModelError(f"{path}: a link to nothing; copy the folder again, with the files themselves") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links
        raise ModelError(f"{path}: cannot be read ({error}); check the folder and its permissions") from None
    blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(target.is_relative_to(allowed) for allowed in (root, *blobs)):
        raise ModelError(f"{path}: a link that leads out of the folder, refused as unsafe; put the file itself there")
    if not stat.S_ISREG(mode):
        raise ModelError(f"{path}: not a file; copy the folder again")
    return path


def read_text(path: Path, limit: int) -> str:
    """Return the text of a UTF-8 file. Raises ModelError, also if the file has more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if len(content) > limit:
        raise ModelError(
            f"{path}: larger than {limit / MIB:g} MiB, more than such a file ever has; copy it again from a source that you trust"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: byte {error.start} is not UTF-8; copy the file again") from None


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """Return the object in a strict JSON file. Raises ModelError, also if the file has over `limit` bytes or a lone surrogate."""
    document = parse_json(read_text(path, limit), path)
    if not isinstance(document, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(document).__name__}; copy the file again")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ModelError(f"{path}: a string holds half a character (a lone surrogate); copy the file again") from None
    return document


def parse_json(text: str, path: Path) -> Any:
    """Return the value of `text`, strict JSON. Raises ModelError with `path` and, for a syntax error, the position."""
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}); copy the file again") from None
    except ValueError as error:
        raise ModelError(f"{path}: not strict JSON ({error}); copy the file again") from None


def check_version(document: Mapping[str, Any], path: Path, version: int) -> None:
    """Raise OtherVersionError if a later version of tfkit wrote the document at `path`, ModelError if its schema_version is invalid.

    Call this function before any other field is read, since a later version may have another format. A document without schema_version
    passes.
    """
    written = document.get("schema_version", version)
    if type(written) is not int or written < 1:
        raise ModelError(f"{path}: schema_version {written!r:.80} is not a version number; copy the file again")
    if written > version:
        raise OtherVersionError(
            f"{path}: schema_version {written}, written by a later version of tfkit; this one reads up to {version}. Use that version"
        )

"""The public data of bundled recipes, fetched to the paths at which the recipes look for them.

A file appears under its name only when it is whole, on the disk, and has the content that the recipe was run with. What a broken
connection leaves, a hidden file beside it, is continued by the next try or the next command.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tfkit.durable import rename, sync_file, write_atomically
from tfkit.engine.derived_data import DERIVED
from tfkit.engine.inputs import sections_of
from tfkit.engine.listener import Listener, Progress
from tfkit.errors import DataError, MachineError
from tfkit.network import has_hash, is_offline
from tfkit.recipe import open_recipe, read_recipes
from tfkit.recipe.bundled import BundledRecipe, DataFile, DataSet, data_sets
from tfkit.recipe.schema.data_sections import SourceSection

_PAUSES = (1.0, 4.0)  # seconds between tries
_TIME_OUT = 30.0  # seconds without a byte
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Fetched:
    """A file that is there now; `fetched` says whether this call brought it."""

    file: DataFile
    fetched: bool


def sets_of(recipe: BundledRecipe) -> list[DataSet]:
    """Return the data sets that a recipe reads and that can be fetched, in its order. Raise DataError if others cannot."""
    paths = [path for one in read_recipes(open_recipe(str(recipe.path))) for section in sections_of(one.data) for path in _paths(section)]
    known, found = data_sets(), dict[str, DataSet]()
    for path in paths:
        name = Path(path).parent.name
        if path not in {file.path for file in known[name].files} if name in known else True:
            raise DataError(f"{path}: cannot be fetched: it is derived from its source; the first lines of the recipe say how")
        if (origin := known[name].made_of) is not None:
            found[origin] = known[origin]
        found[name] = known[name]
    return list(found.values())


def _paths(source: SourceSection) -> Iterator[str]:
    if source.path is not None:
        yield from (source.path, *source.beside.values())


def fetch_files(sets: list[DataSet], listener: Listener) -> list[Fetched]:
    """Fetch the files that are not there yet, below the current folder. Raises DataError for other content, or without a network."""
    found = []
    for one in sets:
        lacking = [file for file in one.files if not _is_there(file)]
        if one.made_of is not None and lacking:
            _make(one, Path("data", one.made_of), lacking)
        elif one.archive is not None and lacking:
            _fetch(one.archive, listener)
            _make(one, Path(one.archive.path), lacking)
            Path(one.archive.path).unlink()
        else:
            for file in lacking:
                _fetch(file, listener)
        found += [Fetched(file, file in lacking) for file in one.files]
    return found


def _is_there(file: DataFile) -> bool:
    path = Path(file.path)
    if not os.path.lexists(path):
        return False
    if not (path.is_file() and has_hash(path, file.hash)):
        raise DataError(f"{path}: already exists, with other content than the recipe's data; move it away, then fetch again")
    return True


def _make(found: DataSet, origin: Path, files: list[DataFile]) -> None:
    """Make files of a set from what is there already."""
    texts = DERIVED[found.name](origin)
    for file in files:
        path = Path(file.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, texts[path.name])
        except OSError as error:
            raise _unwritable(path, error) from error
        if not has_hash(path, file.hash):
            path.unlink()
            raise DataError(
                f"{path}: the file that this version makes differs from the recipe's data; report it, with the output of `tfkit env`"
            )


def _fetch(file: DataFile, listener: Listener) -> None:
    path = Path(file.path)
    if is_offline():
        raise DataError(f"{path}: TFKIT_OFFLINE is set; unset it, or put the file of {file.url} there")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with listener.progress(f"fetching {file.url.rpartition('/')[2]}", file.bytes, "bytes") as bar:
            position = _Position(bar)
            _with_retries(file.url, lambda: _download(file.url, part, position))
        if not has_hash(part, file.hash):
            part.unlink()
            raise DataError(
                f"{file.url}: its content is not that of the recipe's data (expected hash: {file.hash}); the download was discarded"
            )
        sync_file(part)
        rename(part, path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(f"{path}: cannot be written ({error.strerror}); make room there, or run it in another folder")


class _Position:
    """Advances a progress to a position, however often a download begins again."""

    def __init__(self, bar: Progress):
        self.bar, self.shown = bar, 0

    def __call__(self, position: int) -> None:
        self.bar.advance(position - self.shown)
        self.shown = position


def _with_retries(url: str, download: Callable[[], None]) -> None:
    for pause in (*_PAUSES, None):
        try:
            return download()
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            passing = not isinstance(error, urllib.error.HTTPError) or error.code in _PASSING
            if pause is None or not passing:
                reason = getattr(error, "reason", None) or error
                raise DataError(
                    f"{url}: cannot be fetched ({reason}); check the network, then fetch again: the download continues where it ended"
                ) from None
            time.sleep(pause)
    return None


def _download(url: str, part: Path, show: Callable[[int], object]) -> None:
    """Append to `part` what it lacks, or write it again if the server sends only whole files. Raises what urllib raises, and OSError."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "tfkit", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urllib.request.urlopen(request, timeout=_TIME_OUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is lacking, or the file was never of this length: its hash decides
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as out:
        begin = done = done if response.status == 206 else 0
        length = response.length
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            show(done := done + len(chunk))
    if length is not None and done - begin < length:
        raise ConnectionError("the connection broke off")

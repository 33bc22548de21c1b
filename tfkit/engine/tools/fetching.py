"""Fetch the public data of bundled recipes to the paths from which the recipes read them.

A download gets its name only when it is complete, flushed to the disk, and has the content with which the recipe was tested. A broken
connection leaves a hidden partial file. The next attempt, or the next command, continues the download from the end of this file.
"""

import csv
import http.client
import io
import json
import os
import ssl
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from tfkit.durable import rename, sync_file, with_retries, write_atomically
from tfkit.engine.listener import Listener, ProgressBar
from tfkit.engine.request.inputs import sections_of
from tfkit.errors import DataError, writing
from tfkit.network import has_hash, is_offline
from tfkit.recipe import open_recipe, read_recipes
from tfkit.recipe.bundled import BundledRecipe, DataFile, DataSet, data_sets

_PAUSES = (1.0, 4.0)  # seconds between attempts
_TIME_OUT = 30.0  # seconds without a byte after which an attempt fails
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes after which a request is repeated
_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)  # errors of a connection
_CHUNK = 1 << 16  # bytes read at a time
_UNWRITABLE = "make room there, or run the command in another folder"  # the remedy if a file cannot be written
# Repairs text in Windows-1252 that was decoded as Latin-1: maps each resulting control character to the right character.
_WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}


def sets_of(recipe: BundledRecipe) -> list[DataSet]:
    """Return the data sets that a recipe reads, each after the set from which it is made, if any. Raises DataError for a file in no set."""
    sections = [section for one in read_recipes(open_recipe(str(recipe.path))) for section in sections_of(one.data)]
    paths = [path for section in sections if section.path is not None for path in (section.path, *section.beside.values())]
    known, used = data_sets(), dict[str, DataSet]()
    for path in paths:
        name = Path(path).parent.name
        if name not in known or path not in {file.path for file in known[name].files}:
            raise DataError(f"{path}: cannot be fetched: it is derived from its source; the first lines of the recipe say how")
        if (origin := known[name].made_of) is not None:
            used[origin] = known[origin]
        used[name] = known[name]
    return list(used.values())


def fetch_files(sets: list[DataSet], listener: Listener) -> list[tuple[DataFile, bool]]:
    """Fetch the missing files of the sets into the current folder. Return each file, and whether it was missing.

    Raises DataError if there is no network, or if the content of a file is not that of the recipe's data; MachineError if a file
    cannot be written.
    """
    fetched = []
    for data_set in sets:
        missing = [file for file in data_set.files if not _exists(file)]
        if data_set.made_of is not None and missing:
            _derive(data_set, Path("data", data_set.made_of), missing)
        elif data_set.archive is not None and missing:
            _fetch(data_set.archive, listener)
            _derive(data_set, Path(data_set.archive.path), missing)
            Path(data_set.archive.path).unlink()
        else:
            for file in missing:
                _fetch(file, listener)
        fetched += [(file, file in missing) for file in data_set.files]
    return fetched


def _exists(file: DataFile) -> bool:
    """Whether a file exists. Raises DataError if its content is not that of the recipe's data."""
    path = Path(file.path)
    if not os.path.lexists(path):
        return False
    if not (path.is_file() and has_hash(path, file.hash)):
        raise DataError(f"{path}: already exists, with other content than the recipe's data; move it away, then fetch again")
    return True


def _derive(data_set: DataSet, origin: Path, files: list[DataFile]) -> None:
    """Derive the `files` of a set from `origin`, and write them. `origin`: the set's archive, or the folder of another set."""
    texts = _DERIVED[data_set.name](origin)
    for file in files:
        path = Path(file.path)
        with writing(path, _UNWRITABLE):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, texts[path.name])
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
    with writing(path, _UNWRITABLE):
        path.parent.mkdir(parents=True, exist_ok=True)
        with listener.progress(f"fetching {file.url.rpartition('/')[2]}", file.bytes, "bytes") as bar:
            bar.advance(part.stat().st_size if part.exists() else 0)
            _with_retries(file.url, lambda: _download(file.url, part, bar))
        if not has_hash(part, file.hash):
            part.unlink()
            raise DataError(
                f"{file.url}: its content is not that of the recipe's data (expected hash: {file.hash}); the download was discarded"
            )
        sync_file(part)
        rename(part, path)


def _with_retries(url: str, download: Callable[[], None]) -> None:
    def is_transient(error: BaseException) -> bool:
        return error.code in _TRANSIENT if isinstance(error, urllib.error.HTTPError) else isinstance(error, _ERRORS)

    try:
        with_retries(download, is_transient, _PAUSES)
    except _ERRORS as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{url}: cannot be fetched ({reason}); check the network, then fetch again: the download continues where it ended"
        ) from None


def _download(url: str, part: Path, bar: ProgressBar) -> None:
    """Append the missing bytes to the file `part`, or overwrite the file if the server sends only whole files.

    `bar` shows the size of `part`. Raises urllib's errors and OSError.
    """
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "tfkit", **({"Range": f"bytes={done}-"} if done else {})})
    try:
        response = urllib.request.urlopen(request, timeout=_TIME_OUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is complete, or too long: its hash will be checked
            return
        raise
    continues = response.status == 206
    with response, part.open("ab" if continues else "wb") as out:
        bar.advance(0 if continues else -done)
        while chunk := response.read(_CHUNK):
            out.write(chunk)
            bar.advance(len(chunk))
    if response.length:  # the number of bytes that did not arrive; None if the server did not announce the size
        raise ConnectionError("the connection broke off")


def _sentence_polarity(archive: Path) -> dict[str, str]:
    """Return the csv files of Sentence Polarity v1.0 (Pang and Lee 2005), by name, from nltk's archive.

    A negative and a positive line make a pair. Of every ten pairs, the first goes to test.csv, the second to valid.csv, eight to train.csv.
    """
    with zipfile.ZipFile(archive) as source:
        texts = [source.read(f"sentence_polarity/rt-polarity.{side}").decode().translate(_WINDOWS) for side in ("neg", "pos")]
    files = {name: io.StringIO() for name in ("train.csv", "valid.csv", "test.csv")}
    writers = {name: csv.writer(file, lineterminator="\n") for name, file in files.items()}
    for writer in writers.values():
        writer.writerow(("text", "label"))
    for index, pair in enumerate(zip(*(text.removesuffix("\n").split("\n") for text in texts), strict=True)):
        writer = writers[("test.csv", "valid.csv")[index % 10] if index % 10 < 2 else "train.csv"]
        writer.writerows((line.strip(), label) for line, label in zip(pair, ("negative", "positive"), strict=True))
    return {name: file.getvalue() for name, file in files.items()}


def _reviews(sentences: Path) -> dict[str, str]:
    """Return JSON lines such as `{"prompt": "the film is"}`, by file name, for the recipe instructgpt-reviews, from Sentence Polarity.

    The prompts are the distinct first three words of the sentences of train.csv; the held-out prompts are the first 128 from valid.csv
    that train.csv does not have.
    """
    trained, others = _beginnings(sentences / "train.csv"), _beginnings(sentences / "valid.csv")
    prompts = {"prompts.jsonl": [*trained], "held_out.jsonl": [text for text in others if text not in trained][:128]}
    return {name: "".join(json.dumps({"prompt": text}) + "\n" for text in texts) for name, texts in prompts.items()}


def _beginnings(path: Path) -> dict[str, None]:
    with path.open(encoding="utf-8", newline="") as file:
        return dict.fromkeys(" ".join(row["text"].split()[:3]) for row in csv.DictReader(file))


# Functions that derive data sets of recipes/data.json, by the set's name. The argument is the set's archive, or the folder of another set.
_DERIVED: dict[str, Callable[[Path], dict[str, str]]] = {"sentence_polarity": _sentence_polarity, "reviews": _reviews}

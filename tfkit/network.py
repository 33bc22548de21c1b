"""Requests to the Hugging Face Hub: repeated where that may help, forbidden by a switch; downloads are checked against its hashes."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tfkit import durable

Result = TypeVar("Result")

_PAUSES = (1.0, 4.0)  # seconds between tries; the hub's client makes retries of its own within each
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_CHUNK = 1 << 20


class WrongContentError(ValueError):
    """Downloaded content that differs from the hub's hash."""


def is_offline() -> bool:
    """Whether TFKIT_OFFLINE forbids every connection."""
    return os.environ.get("TFKIT_OFFLINE", "0") not in ("", "0")


def with_retries(request: Callable[[], Result]) -> Result:
    """Return the result of a request, made again up to two times after a transient error; then its error is raised."""
    return durable.with_retries(request, _is_passing, _PAUSES)


def fetch(download: Callable[[], Result], repository: Path, discard: Callable[[Result], None] | None = None) -> Result:
    """Return the result of `download`, which puts its files into `repository`, a folder of the hub's cache.

    After a transient error (a server that is down, a time-out, half a file, wrong content) there are two more tries; then the last error
    of `download` is raised, or WrongContentError. Files with wrong content do not stay in the cache; `discard` removes their results.
    """
    for pause in (*_PAUSES, None):
        began = time.time()
        try:
            result = download()
            if not (wrong := _drop_wrong_files(repository, began)):
                return result
            if discard is not None:
                discard(result)
            error: Exception = WrongContentError(f"{', '.join(wrong)} had other content than the hub's hash")
        except Exception as raised:
            error = raised
            if not _drop_wrong_files(repository, began) and not _is_passing(raised):
                raise
        if pause is None:
            raise error
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _is_passing(error: BaseException) -> bool:
    """Whether another try may help: by the status of a response, or because there was none."""
    from huggingface_hub import constants

    if is_offline() or constants.HF_HUB_OFFLINE:
        return False
    if (status := status_of(error)) is not None:
        return status in _PASSING
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.split(".")[0] in _CLIENTS for cause in _causes(error)
    )


def status_of(error: BaseException) -> int | None:
    """Return the status of the response that an error, or the first of its causes, is about; None: there was no response."""
    responses = [cause.response for cause in _causes(error) if getattr(cause, "response", None) is not None]  # type: ignore[attr-defined]
    return int(responses[-1].status_code) if responses else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _drop_wrong_files(repository: Path, since: float) -> list[str]:
    """Remove new blobs that do not match their names: the SHA-256 of a large file, git's SHA-1 of a small one."""
    wrong = []
    for blob in (repository / "blobs").glob("*"):
        if blob.suffix or blob.stat().st_mtime < since - 2 or has_hash(blob, blob.name):  # an .incomplete one is continued later
            continue
        blob.unlink()
        for link in (repository / "snapshots").rglob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink()
                wrong.append(link.name)
    return wrong


def has_hash(blob: Path, expected: str) -> bool:
    """Whether a file has this SHA-256, of 64 digits, or is git's blob of this name, of 40."""
    if len(expected) not in (40, 64):
        return True  # not a hash
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected

"""Requests to the Hugging Face Hub: retried after transient errors, forbidden by TFKIT_OFFLINE. Downloads are checked against hashes."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tfkit import durable

Result = TypeVar("Result")

_PAUSES = (1.0, 4.0)  # seconds between attempts; in each attempt the Hub's client also retries on its own
_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # packages whose errors are errors of a connection


class WrongContentError(ValueError):
    """Downloaded content whose hash differs from the hash on the Hub."""


def is_offline() -> bool:
    """Whether TFKIT_OFFLINE forbids all connections."""
    return os.environ.get("TFKIT_OFFLINE", "0") not in ("", "0")


def with_retries(request: Callable[[], Result]) -> Result:
    """Return the result of a request, which is retried up to twice after a transient error. Raises the error of the last attempt."""
    return durable.with_retries(request, _is_transient, _PAUSES)


def fetch(download: Callable[[], Result], repository: Path, discard: Callable[[Result], None] | None = None) -> Result:
    """Return the result of `download`, which writes its files into `repository`, a folder of the Hub's cache.

    After a transient error (a server that is down, a time-out, an incomplete file, wrong content) the download is retried up to twice; the
    error of the last attempt is raised, which is WrongContentError for wrong content. Files with wrong content are removed from the cache.
    If `download` has returned a result that was made from such files, `discard` must remove the result.
    """
    wrong: list[str] = []  # names of the files of the latest attempt that had wrong content

    def attempt() -> Result:
        began = time.time()
        try:
            result = download()
        except Exception:
            wrong[:] = _remove_wrong_files(repository, began)
            raise
        wrong[:] = _remove_wrong_files(repository, began)
        if wrong and discard is not None:
            discard(result)
        if wrong:
            raise WrongContentError(f"{', '.join(wrong)} had other content than the hub's hash")
        return result

    return durable.with_retries(attempt, lambda error: bool(wrong) or _is_transient(error), _PAUSES)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may help: never offline; else depending on the HTTP status of the response or, without one, the type of the error."""
    from huggingface_hub import constants

    if is_offline() or constants.HF_HUB_OFFLINE:
        return False
    if (status := status_of(error)) is not None:
        return status in _TRANSIENT_STATUSES
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.split(".")[0] in _CLIENTS for cause in _causes(error)
    )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the response that caused an error, or of the first of several responses; None without a response."""
    responses = [cause.response for cause in _causes(error) if getattr(cause, "response", None) is not None]  # type: ignore[attr-defined]
    return int(responses[-1].status_code) if responses else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _remove_wrong_files(repository: Path, since: float) -> list[str]:
    """Remove blobs whose content does not match their names, and return the names of the files that are links to them.

    The name of a blob is its SHA-256 if it is large, and git's SHA-1 if it is small. Only blobs that are newer than `since`, a time in
    seconds, are read.
    """
    wrong = []
    for blob in (repository / "blobs").glob("*"):
        if blob.suffix or blob.stat().st_mtime < since - 2 or has_hash(blob, blob.name):  # .incomplete files are continued later
            continue
        blob.unlink()
        for link in (repository / "snapshots").rglob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink()
                wrong.append(link.name)
    return wrong


def has_hash(blob: Path, expected: str) -> bool:
    """Whether the hash of a file is `expected`: a SHA-256 of 64 digits, or git's SHA-1 of 40 digits. True if `expected` is no such hash."""
    if len(expected) not in (40, 64):
        return True
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() == expected

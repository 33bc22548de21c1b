"""Repeat requests to the Hugging Face Hub after transient errors, unless tfkit is offline, and check downloads against hashes."""

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
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # packages whose exceptions are errors of the connection


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
    If `download` has returned a result made from them, `discard` is called with the result, which it must delete.
    """
    wrong: list[str] = []  # names of the files with wrong content in the latest attempt

    def attempt() -> Result:
        wrong.clear()  # else the names of the attempt before would remain if _remove_wrong_files raises an error
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
    """Whether a retry may help: offline never, else by the response's HTTP status or, without a response, by the error's type."""
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
    """Remove blobs (files in the Hub's cache) whose content does not match their names, and return the names of the links to them.

    A large blob is named by its SHA-256, a small one by git's SHA-1. Blobs last written more than two seconds before `since` (in
    seconds since 1970) are not read.
    """
    wrong = []
    for blob in (repository / "blobs").glob("*"):
        if blob.suffix or blob.stat().st_mtime < since - 2 or has_hash(blob, blob.name):  # .incomplete: continued by a later attempt
            continue
        blob.unlink()
        for link in (repository / "snapshots").rglob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink()
                wrong.append(link.name)
    return wrong


def has_hash(blob: Path, expected: str) -> bool:
    """Whether the hash of a file is `expected`: a SHA-256 of 64 digits, or git's SHA-1 of 40 digits. True for any other length."""
    if len(expected) not in (40, 64):
        return True
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    with blob.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() == expected

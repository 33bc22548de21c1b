"""Errors of the disk that pass are tried again, with everything written again; others are raised at once."""

import errno
import os
import time
from pathlib import Path

import pytest

from tfkit import durable
from tfkit.durable import disk_is_full, is_os_error, is_transient, with_retries, write_atomically


@pytest.mark.parametrize("number", sorted(durable.TRANSIENT))
@pytest.mark.parametrize("failures", [0, 1, 3, 4])
def test_four_tries(monkeypatch: pytest.MonkeyPatch, number: int, failures: int) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    left = [failures]

    def work() -> str:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return "done"

    if failures < 4:
        assert with_retries(work) == "done"
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            with_retries(work)
    assert waited == list(durable.PAUSES[:failures])
    assert sum(waited) <= 2


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), PermissionError(errno.EACCES, "no"), KeyError("bug"), KeyboardInterrupt()]
)
def test_what_does_not_pass_is_raised_at_once(error: BaseException) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        with_retries(work)
    assert calls == [1]


@pytest.mark.parametrize("function", ["fsync", "replace", "open"])
def test_after_a_passing_error_the_file_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A second fsync of the same file would say that all is well, whether or not the bytes are on the disk."""
    monkeypatch.setattr(durable, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(time, "sleep", (waited := []).append)
    whole, failed, synced = getattr(os, function), [False], []

    def once(*arguments: object, **options: object) -> object:
        if not failed[0]:
            failed[0] = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(*arguments, **options)

    def noted(descriptor: int, fsync: object = os.fsync) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        (once if function == "fsync" else fsync)(descriptor)

    if function != "fsync":
        monkeypatch.setattr(os, function, once)
    monkeypatch.setattr(os, "fsync", noted)
    write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert os.listdir(tmp_path) == ["file"]
    assert (failed, waited) == ([True], [0])
    assert synced[-2:] == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def test_the_words_of_the_rust_libraries() -> None:
    full = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (disk_is_full(full), is_transient(full), is_os_error(full)) == (True, False, True)
    passing = RuntimeError("I/O error: Input/output error (os error 5)")
    assert (disk_is_full(passing), is_transient(passing), is_os_error(passing)) == (False, True, True)
    assert not is_os_error(ValueError("a bug"))

import errno
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_files import wait_for
from tiny_runs import Process

from tfkit.data import cache_folder, cache_size
from tfkit.data.store.folder_cache import build_once
from tfkit.errors import MachineError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TFKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return home


def test_the_environment_decides_in_order(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == home / ".cache/tfkit"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == home / "Library/Caches/tfkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == home / "Library/Caches/tfkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/tfkit"
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder().is_dir()


@pytest.mark.parametrize("case", ["missing", "not a folder", "no home at all"])
def test_without_a_home_the_temporary_folder_serves_and_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    if case == "missing":
        monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    elif case == "not a folder":
        (home / ".cache").write_text("")  # as a read-only home: nothing can be made there
    else:

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(RuntimeWarning, match="set TFKIT_CACHE"):
        folder = cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "nowhere").exists()


def test_a_link_under_our_name_in_the_temporary_folder_is_not_followed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    (tmp_path / f"tfkit-{os.getuid()}").symlink_to(home)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert cache_folder().name not in (home.name, f"tfkit-{os.getuid()}")


def test_a_chosen_cache_that_cannot_be_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(MachineError, match="TFKIT_CACHE="):
        cache_folder()


def test_the_size_is_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    assert cache_size() == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"12345")
    assert cache_size() == 5


def is_whole(folder: Path) -> bool:
    return (folder / "end").exists()


def build(folder: Path) -> None:
    (folder / "data").write_text(str(os.getpid()))
    (folder / "end").write_text("")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    assert build_once(tmp_path / "x", is_whole, build)
    assert not build_once(tmp_path / "x", is_whole, build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_whole_is_replaced(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "x").mkdir()
        (tmp_path / "x/half").write_text("")
    else:
        (tmp_path / "x").write_text("")
    assert build_once(tmp_path / "x", is_whole, build)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "end", "hashes.json", "x"]


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "x", is_whole, fail)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_the_machines_error(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MachineError, match=r"No space left on device.*TFKIT_CACHE"):
        build_once(tmp_path / "x", is_whole, fail)


def build_when_both_are_there(folder: Path) -> None:
    """Two builders meet: each waits inside its build until the other is in its own."""
    (folder.parent / f"here-{os.getpid()}").write_text("")
    wait_for(lambda: len(list(folder.parent.glob("here-*"))) == 2)
    build(folder)


def test_of_two_builders_at_once_both_succeed_with_one_result(tmp_path: Path) -> None:
    (output := tmp_path / "output").mkdir()
    builders = [
        Process(output, [], program=lambda _: int(build_once(tmp_path / "x", is_whole, build_when_both_are_there))) for _ in range(2)
    ]
    assert sorted(builder.wait().code for builder in builders) == [0, 1], "one of them has built it"
    assert int((tmp_path / "x/data").read_text()) in [builder.pid for builder in builders]
    assert not list(tmp_path.glob(".building-*"))


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def sleep(folder: Path) -> None:
        (folder / "data").write_text("half")
        time.sleep(60)

    sleeper = Process(tmp_path, [], program=lambda _: int(build_once(cache / "x", lambda folder: False, sleep)))
    try:
        wait_for(lambda: bool(list(cache.glob(".building-x-*/data"))))
        assert build_once(cache / "x", is_whole, build)
        assert len(list(cache.glob(".building-x-*/data"))) == 1, "its builder lives"
    finally:
        sleeper.kill(signal.SIGKILL)
    sleeper.wait()
    assert len(list(cache.glob(".building-x-*/data"))) == 1
    assert build_once(cache / "y", is_whole, build)
    assert sorted(path.name for path in cache.iterdir()) == ["x", "y"]

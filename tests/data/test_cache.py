"""The cache: where it is, and that each part of it is built once, whole, and again if it is damaged."""

import errno
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_examples import Letters, plain
from tiny_files import wait_for
from tiny_runs import Process, raising
from tiny_sources import opened, write_files
from tiny_streams import write_texts

from tfkit.data import cache_folder, cache_size, example_set, token_stream, trained_tokenizer
from tfkit.data.store.folder_cache import build_once
from tfkit.errors import MachineError
from tfkit.recipe.schema.data_sections import TokenizerSection
from tfkit.tokenizer import train_byte_bpe


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
        monkeypatch.setattr(Path, "home", raising(RuntimeError("Could not determine home directory.")))
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
    monkeypatch.chdir(tmp_path)
    for name in ("file", "~no-such-user"):
        Path(name).write_text("")
        monkeypatch.setenv("TFKIT_CACHE", f"{name}/cache")
        with pytest.raises(MachineError, match=f"TFKIT_CACHE={name}/cache: "):
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


@pytest.mark.parametrize("name", ["x/half", "x"])
def test_what_is_not_whole_is_replaced(tmp_path: Path, name: str) -> None:
    """A folder, and a file in its place."""
    write_files(tmp_path, {name: ""})
    assert build_once(tmp_path / "x", is_whole, build)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "end", "hashes.json", "x"]


def test_a_builder_that_fails_leaves_nothing_and_a_full_disk_is_the_machines_error(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, raised, said in (
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (full, MachineError, r"No space left on device.*TFKIT_CACHE"),
    ):

        def fail(folder: Path, error: BaseException = error) -> None:
            (folder / "data").write_text("half")
            raise error

        with pytest.raises(raised, match=said):
            build_once(tmp_path / "x", is_whole, fail)
        assert not list(tmp_path.iterdir())


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


TOKENIZER = train_byte_bpe(["some text, some words\n" * 20], 300, add_bos=True)


def of_stream(rows: Path, progress: Callable[[int], object]) -> tuple[bool, Any]:
    stream = token_stream(opened(rows), TOKENIZER, progress)
    assert isinstance(stream.tokens, np.memmap)
    assert stream.tokens.dtype == np.uint16
    return stream.cached, (stream.fingerprint, stream.tokens.tolist(), stream.starts.tolist(), stream.text_bytes.tolist())


def of_examples(rows: Path, progress: Callable[[int], object]) -> tuple[bool, Any]:
    encoder = Letters()
    stored = example_set(opened(rows), encoder, "error", progress)
    assert isinstance(stored.arrays["codes"][0], np.memmap)
    assert encoder.calls == (not stored.cached)
    return stored.cached, (stored.fingerprint, plain(stored))


def of_tokenizer(rows: Path, progress: Callable[[int], object]) -> tuple[bool, Any]:
    read: list[int] = []
    tokenizer = trained_tokenizer([opened(rows)], TokenizerSection(vocab_size=300), lambda count: read.append(count) or progress(count))
    return not read, (tokenizer.fingerprint(), tokenizer.tokenizer_json)


EXAMPLE_FILES = [f"{name}.bin" for name in ("codes", "codes.starts", "lengths", "places", "places.starts", "size", "size.starts", "texts")]
PARTS: dict[str, tuple[Callable[..., tuple[bool, Any]], list[str]]] = {
    "streams": (of_stream, ["index.json", "starts.bin", "text_bytes.bin", "texts.bin", "tokens.bin"]),
    "examples": (of_examples, sorted([*EXAMPLE_FILES, "index.json"])),
    "tokenizers": (of_tokenizer, ["tokenizer.json", "tokenizer_config.json"]),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_built_once_and_again_where_a_file_is_damaged(tmp_path: Path, part: str) -> None:
    """Another byte in a file of the right size is said; files of version 0.1.0 have no hashes, which is not."""
    build, names = PARTS[part]
    rows, read = write_texts(tmp_path, ["some text", "more words ü"]), []
    cached, expected = build(rows, read.append)
    assert (cached, sum(read)) == (False, len("some textmore words ü".encode()))
    assert build(rows, read.append) == (True, expected)
    assert sum(read) == len("some textmore words ü".encode()), "nothing is read again"
    [folder] = (cache_folder() / part).iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "hashes.json"])
    for name, damage in [*product(names, ("cut", "gone", "another byte")), ("hashes.json", "gone")]:
        content = bytearray((folder / name).read_bytes())
        content[max(content.find(b"rows.jsonl"), content.find(b"some"))] ^= 1
        (folder / name).write_bytes(content[:-2] if damage == "cut" else content)
        if damage == "gone":
            (folder / name).unlink()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert build(rows, read.append) == (False, expected), (name, damage)
        assert all(f"{name}: damaged, so this part of the cache is built again" in str(one.message) for one in said)
        assert bool(said) == (damage == "another byte") or part == "tokenizers", (name, damage)
        assert build(rows, read.append) == (True, expected)

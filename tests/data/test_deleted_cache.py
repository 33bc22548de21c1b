"""A cache that is deleted while it is filled or read: what it held is built again, and the result is that of an undisturbed process."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_files import write_rows
from tiny_sources import opened

from tfkit.data import token_stream
from tfkit.data.columns.record_columns import Columns
from tfkit.data.columns.rows import Part
from tfkit.data.sources.stdlib import StdlibTask
from tfkit.data.store.folder_cache import ATTEMPTS, build_and_open
from tfkit.data.store.vocabulary import trained_tokenizer
from tfkit.errors import MachineError
from tfkit.recipe.schema.data_sections import TokenizerSection

TEXTS = ["some text, some words", "more words of the same kind", "a last text"] * 5


class Deletion:
    """At the n-th file operation on the cache, all of it is deleted, or only its files: how far `rm -r` may have come."""

    def __init__(self) -> None:
        self.cache, self.at, self.files_only = Path(), 0, False
        self.seen = 0
        sys.addaudithook(self.look)

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.at or event not in ("open", "os.mkdir", "os.rename", "os.scandir", "os.listdir"):
            return
        if isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(self.cache)):
            self.seen += 1
            if self.seen == self.at:
                self.at = 0
                self.delete()

    def delete(self) -> None:
        if not self.files_only:
            shutil.rmtree(self.cache, ignore_errors=True)
        for file in self.cache.rglob("*"):
            if file.is_file():
                file.unlink()


DELETION = Deletion()  # a hook stays as long as the process


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DELETION, "cache", tmp_path / "cache")
    monkeypatch.setattr(DELETION, "at", 0)


def prepared(rows: Path) -> tuple[str, list[int], list[int]]:
    source = opened(rows)
    tokenizer = trained_tokenizer([source], TokenizerSection(vocab_size=300))
    stream = token_stream(source, tokenizer, sentences=True)
    return tokenizer.fingerprint(), np.asarray(stream.tokens).tolist(), stream.sentences.tolist()


@pytest.mark.thorough
@pytest.mark.parametrize("files_only", [False, True], ids=["all", "files"])
def test_deleted_at_each_file_operation_it_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_only: bool) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [{"text": text} for text in TEXTS])
    expected = prepared(rows)
    monkeypatch.setattr(DELETION, "files_only", files_only)
    for at in range(1, 1000):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        DELETION.seen, DELETION.at = 0, at
        found = prepared(rows)
        assert found == expected, f"deleted at operation {at}"
        assert not [name for _, folders, _ in os.walk(tmp_path / "cache") for name in folders if name.startswith(".")]
        if DELETION.at:  # there are fewer operations
            break
    assert 50 < at < 999


def test_deleted_again_and_again_it_is_the_machines_error(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        DELETION.delete()
        (folder / "data").write_text("")

    with pytest.raises(MachineError, match=r"kind.x: this part of the cache was deleted while it was used; .*TFKIT_CACHE"):
        build_and_open(tmp_path / "cache/kind/x", lambda folder: False, build, lambda folder: folder)
    assert len(builds) == ATTEMPTS


def test_another_file_that_is_missing_is_not_the_caches_and_ends_the_first_attempt(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (tmp_path / "rows.txt").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"rows\.txt"):
        build_and_open(tmp_path / "cache/kind/x", lambda folder: False, build, lambda folder: folder)
    assert len(builds) == 1


@pytest.mark.thorough
def test_records_that_are_read_from_the_cache_while_it_is_deleted(tmp_path: Path) -> None:
    task = StdlibTask.find("docstrings", Columns(), Part("all", 0.1), "error")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(MachineError, match=r"deleted while it was used; start .* TFKIT_CACHE"):
        task.describe()

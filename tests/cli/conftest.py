"""Runs and recipes that the tests of several commands read."""

import shutil
from pathlib import Path

import answer_runs
import pytest
from tiny_runs import write_corpus, write_recipe


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run of each kind of answer, and its data."""
    return answer_runs.train(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models to be tuned, and rows with labels; a test that writes takes a copy."""
    return answer_runs.train_starts(tmp_path_factory.mktemp("tuned"))


@pytest.fixture
def recipe(tmp_path: Path, in_tmp_path: None) -> Path:
    """The recipe tiny.yaml beside its corpus, in a current folder of its own."""
    return write_recipe(tmp_path, write_corpus(tmp_path / "corpus"))


@pytest.fixture
def work(starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A copy of that folder as the current one, with the recipe TASK of the test's module as task.yaml."""
    folder = shutil.copytree(starts, tmp_path / "work")
    (folder / "task.yaml").write_text(f"# For a test.{request.module.TASK}", encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder

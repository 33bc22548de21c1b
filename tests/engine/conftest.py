"""A run of the library for all tests of this folder."""

from pathlib import Path
from typing import Any

import pytest
from library_calls import call, recipe
from tiny_runs import write_corpus

import tfkit
from tfkit.recipe.dump import dump_document


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, the recipe, and a run of it that was never stopped."""
    folder = tmp_path_factory.mktemp("library")
    document = recipe(write_corpus(folder / "corpus"))
    (folder / "tiny.yaml").write_text(dump_document(document), encoding="utf-8")
    call(folder, lambda: tfkit.pretrain(document, run="unbroken").to_dict())
    return folder


@pytest.fixture(scope="session")
def document(base: Path) -> dict[str, Any]:
    return recipe(base / "corpus")

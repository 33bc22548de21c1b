"""A folder with tiny models and rows for every objective, which the tests of plans share."""

from pathlib import Path

import pytest
from tiny_plans import write_place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with rows for each objective, a language model, a reward model and a classifier."""
    return write_place(tmp_path_factory.mktemp("plans"))

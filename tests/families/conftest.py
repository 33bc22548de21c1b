import pytest
from tiny_references import Pair, save_reference

from tfkit.hub import load


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Return a case's model of transformers, and ours with its weights, for the tests of a module that leave them as they are."""
    folder = tmp_path_factory.mktemp("pair")
    return Pair(save_reference(folder, request.param), load(folder).model, request.param)

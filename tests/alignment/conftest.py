"""Make the rows and runs of other folders' tests importable here, whichever tests are selected; run commands in a module's folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Done, run_tfkit

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("objectives", "devices")]


@pytest.fixture
def tfkit(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Return a function that runs a command in the folder `place` of the tests' module, on one thread."""
    monkeypatch.chdir(place)
    has_threads = ("finetune", "evaluate", "resume")
    return lambda *words, before=None: run_tfkit(place, [*words, *(["--threads", "1"] if words[0] in has_threads else [])], before)

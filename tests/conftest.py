"""The environment of every test: no network, no caches, tokens or settings of the user, and one thread.

A test that starts a run passes `carbon.enabled=false` unless carbon is its subject: CodeCarbon has no switch in the environment.
"""

import gc
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any import of the libraries that read these once, and inherited by every process that a test starts.
_FOLDER = tempfile.TemporaryDirectory(prefix="tfkit-tests-")
os.environ |= {
    "TFKIT_CACHE": str(Path(_FOLDER.name, "cache")),
    "XDG_STATE_HOME": str(Path(_FOLDER.name, "state")),
    "HF_HOME": str(Path(_FOLDER.name, "huggingface")),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",  # a fork after its threads have started would warn
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),  # a fork beside a pool of threads may hang
}
for _name in ("HF_TOKEN", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "GITHUB_ACTIONS", "PYTHONWARNINGS"):
    os.environ.pop(_name, None)  # GITHUB_ACTIONS makes typer draw as on a terminal
# A shell's background job ignores Ctrl-C, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.fsync = lambda descriptor: None  # half of a small run's time, and only a power cut would show it


_COLLECTED = pytest.StashKey[dict[str, str]]()
_LONG = ("tests/walks/", "tests/benchmarks/test_tutorial.py", "tests/planning/test_simulated_step.py")
settings.register_profile("tests", deadline=None)  # no test is timed: the machine may be busy
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases of a sampled test as thorough, except every n-th, and let the workers begin with the longest tests."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
    cases: Counter[str] = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % sampled.args[0]:
                item.add_marker("thorough")
            cases[test] += 1
    config.stash[_COLLECTED] = {item.nodeid: next(filter(item.get_closest_marker, ("slow", "thorough")), "quick") for item in items}


@pytest.fixture(scope="session")
def collected(pytestconfig: pytest.Config) -> dict[str, str]:
    """Return which tests were collected, and whether each is slow, thorough or, as those of `make test`, quick."""
    return pytestconfig.stash[_COLLECTED]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    gc.disable()  # imports make hardly any garbage, and the search for it would take much of their time
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()  # what was imported is not searched for garbage, and forks share its pages
        gc.enable()


def pytest_unconfigure() -> None:
    _FOLDER.cleanup()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write docs/faults.md from what the tests of tests/faults say")
    parser.addoption("--kills", type=int, default=8, help="how many random SIGKILLs to spread over runs (F02)")
    parser.addoption("--draws", type=int, default=60, help="how many recipes, and mutations of each kind of file, to draw (F33, F49)")
    parser.addoption("--walks", type=int, default=20, help="how many random walks to take (tests/walks)")
    parser.addoption("--walk-seed", type=int, help="take the walk of this seed alone, with its invariants")
    parser.addoption("--device", default="cpu", help="where the tests marked gpu compute: cpu, cuda, cuda:1, mps, or auto for the best one")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a corpus and the recipe tiny.yaml; a module that needs more has a fixture of this name that adds it."""
    from tiny_runs import write_corpus, write_recipe  # which imports all of tfkit, and torch

    folder = tmp_path_factory.mktemp("base")
    write_recipe(folder, write_corpus(folder / "corpus"))
    return folder


@pytest.fixture
def in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folder that the fixture `place` of a module has made the current one."""
    monkeypatch.chdir(place)


@pytest.fixture
def tfkit(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs a command in the folder `place` of the tests' module, on one thread."""
    from tiny_runs import run_tfkit

    monkeypatch.chdir(place)
    has_threads = ("finetune", "evaluate", "predict", "pretrain", "resume")
    return lambda *words, before=None: run_tfkit(place, [*words, *(["--threads", "1"] if words[0] in has_threads else [])], before)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

"""Calls of the library in forks, the recipe of tiny_runs as a dict, and a listener."""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tiny_files import read_json
from tiny_runs import RECIPE, Process

from tfkit.engine.listener import Live, ProgressBar


def call(folder: Path, function: Callable[[], Any], before: Callable[[], object] | None = None) -> Any:
    """Return what a function returns in a fork whose folder this is, as JSON has it. It must print nothing."""
    answer = folder / f"answer-{time.monotonic_ns()}"

    def program(_: list[str]) -> int:
        os.chdir(folder)
        answer.write_text(json.dumps(function()), encoding="utf-8")
        return 0

    done = Process(folder, [], before, program).wait()
    assert (done.code, done.out, done.err) == (0, "", ""), done.out + done.err
    return read_json(answer)


def recipe(corpus: Path) -> dict[str, Any]:
    """Return a recipe of twelve steps of two micro-batches, with dropout."""
    document: dict[str, Any] = YAML(typ="safe").load(RECIPE.replace("CORPUS", json.dumps(str(corpus))))
    del document["schedule"]  # its warm-up has two steps, and some calls train for one
    document["model"]["dropout"], document["training"]["micro_batch_size"] = {"residual": 0.1}, 2
    return document


class Recorder:
    """A listener that notes what it receives, and calls `at` first."""

    terminal = False

    def __init__(self, at: Callable[[str], object] = lambda event: None):
        self.at = at
        self.events: list[list[Any]] = []

    def note(self, event: str, *facts: Any) -> None:
        self.events.append([event, *facts])
        self.at(event)

    def __getattr__(self, event: str) -> Callable[..., None]:
        """Return what notes a call of say, decided, warn, advance or update."""
        return functools.partial(self.note, event)

    @contextmanager
    def progress(self, description: str, total: int | None = None, unit: str = "") -> Iterator[ProgressBar]:
        self.note("progress", description)
        yield self

    @contextmanager
    def live(self) -> Iterator[Live]:
        self.note("live")
        yield self

"""Reduction of a failing walk: parts are removed or halved, one at a time, as long as it fails in the same way."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiny_runs import Fault

from walks.invariants import judge_walk
from walks.running import Failure
from walks.scenario import Walk

TRIES = 200


def shrink(walk: Walk, fails: Callable[[Walk], bool]) -> Walk:
    """Return the smallest walk for which `fails` holds that TRIES attempts find; it holds for `walk`."""
    seen: set[str] = set()

    def is_smaller(found: Walk) -> bool:
        text = json.dumps(asdict(found), sort_keys=True)
        if text in seen or len(seen) >= TRIES:
            return False
        seen.add(text)
        return fails(found)

    while smaller := next(filter(is_smaller, _smaller(walk)), None):
        walk = smaller
    return walk


def shrink_failure(walk: Walk, failure: Failure, folder: Path, *, invariants: bool = False, before: Fault | None = None) -> Walk:
    """Return a small walk that fails with the same signature."""
    invariants = invariants and "not true that" in failure.signature
    numbers = itertools.count()

    def fails(smaller: Walk) -> bool:
        place = folder / f"try-{next(numbers)}"
        try:
            found = judge_walk(smaller, place, invariants=invariants, before=before)
        except (KeyError, IndexError, ValueError, OSError):
            return False  # the reduced walk is impossible: a file without rows, a command without words
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return any(one.signature == failure.signature for one in found.failures)

    return shrink(walk, fails)


def _smaller(walk: Walk) -> Iterator[Walk]:
    """Yield the walk with one part less, the largest parts first."""
    for number in reversed(range(len(walk.commands))):
        yield _edited(walk, lambda made, n=number: made.commands.pop(n))
    for number, command in enumerate(walk.commands):
        if command.signal:
            yield _edited(walk, lambda made, n=number: vars(made.commands[n]).update(signal=None, micro_batch=0))
    for name in walk.recipes:
        yield _edited(walk, lambda made, n=name: made.recipes.pop(n))
    for name in walk.files:
        yield _edited(walk, lambda made, n=name: made.files.pop(n))
    for name, recipe in walk.recipes.items():
        for path in _paths(recipe):
            yield _edited(walk, lambda made, n=name, p=path: _remove(made.recipes[n], p))
    for number, command in enumerate(walk.commands):
        for start, length in _options(command.words):
            yield _edited(walk, lambda made, n=number, s=start, e=start + length: made.commands[n].words.__delitem__(slice(s, e)))
    for name, file in walk.files.items():
        for start, end in _cuts(len(file.rows)):
            yield _edited(walk, lambda made, n=name, s=start, e=end: made.files[n].rows.__delitem__(slice(s, e)))
    for name, file in walk.files.items():
        for number, row in enumerate(file.rows[:8]):
            for column, value in row.items():
                for half in _halves(value):
                    yield _edited(walk, lambda made, n=name, r=number, c=column, h=half: made.files[n].rows[r].update({c: h}))


def _edited(walk: Walk, edit: Callable[[Walk], Any]) -> Walk:
    made = deepcopy(walk)
    edit(made)
    return made


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths that may be removed: outer parts before inner ones; never the kind of a section, nor the one entry of a list."""
    keys = [key for key in value if key != "kind"] if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    removable = not isinstance(value, list) or len(value) > 1
    for key in keys:
        if removable:
            yield (*path, key)
    for key in keys:
        yield from _paths(value[key], (*path, key))


def _remove(value: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        value = value[key]
    del value[path[-1]]


def _options(words: list[str]) -> Iterator[tuple[int, int]]:
    """Yield options with their values, and changes of a recipe: the start of each, and its number of words."""
    for start, word in enumerate(words[1:], 1):
        following = words[start + 1] if start + 1 < len(words) else "--"
        if word.startswith("--"):
            yield start, 1 if following.startswith("--") or "=" in following else 2
        elif "=" in word:
            yield start, 1


def _cuts(count: int) -> Iterator[tuple[int, int]]:
    """Yield halves, quarters, and single rows of a few."""
    if count > 8:
        yield from ((0, count // 2), (count // 2, count), (0, count // 4))
    elif count > 1:
        yield from ((number, number + 1) for number in range(count))


def _halves(value: Any) -> Iterator[Any]:
    if isinstance(value, str | list) and len(value) > 1:
        yield value[: len(value) // 2]
        yield value[len(value) // 2 :]
